"""What ``helm test`` runs in the cluster, and no part of the server: asks the release as a client would.

Reads URL, and, where they are known, MODEL and the body of a prediction, REQUEST.
"""

import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request


def ask(url: str, body: bytes | None = None) -> bytes:
    sys.stderr.write(f"{url}\n")
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})
    # Its own host: no proxy between.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        return bytes(response.read())


def main() -> None:
    url, model = os.environ["URL"], os.environ.get("MODEL", "")  # noqa: TID251 -- no part of the server
    body = os.environ.get("REQUEST", "")  # noqa: TID251
    model = urllib.parse.quote(model, safe="")
    ask(f"{url}/v2/health/ready")
    if model:
        sys.stderr.write(ask(f"{url}/v1/models/{model}/metadata").decode() + "\n")
    if body:
        sys.stderr.write(ask(f"{url}/v1/models/{model}:predict", body.encode()).decode() + "\n")
    served = json.loads(ask(f"{url}/v1/config"))
    states = {name: [one["state"] for one in found["model_version_status"]] for name, found in served.items()}
    sys.stderr.write(f"{states}\n")
    if not states or not all("AVAILABLE" in found for found in states.values()):
        sys.exit("not every model is AVAILABLE")


if __name__ == "__main__":
    try:
        main()
    except urllib.error.HTTPError as exc:
        sys.exit(f"{exc}: {exc.read().decode(errors='replace')}")
    except OSError as exc:
        sys.exit(f"no answer: {exc}")
