"""AWS Lambda by the Serverless Framework or osls: serverless.yml with a manifest's values."""

from __future__ import annotations

from collections.abc import Mapping

from handlers.deploy import templates
from handlers.deploy.lambda_function import Function, function
from handlers.deploy.manifest import Manifest
from handlers.deploy.parse import ManifestError
from handlers.deploy.yaml_text import headed, without

_OF_ONE_MODEL = ("modelName", "modelBucket", "modelPrefix", "modelConfig", "logLevel")
_CONDITIONS_OF_ONE_MODEL = ("ModelConfig", "ModelPlace", "HasConfig")
_MAX_ROLE = 64


def render(manifest: Manifest) -> Mapping[str, str]:
    """Return serverless.yml.

    Raises:
        ManifestError: Lambda has no such functions, or the framework would give the role a name that IAM refuses.
    """
    made = function(manifest)
    most = _MAX_ROLE - len(f"-dev-{made.region}-lambdaRole")
    if len(made.name) > most:
        raise ManifestError(
            f"name has {len(made.name)} characters; want {most} at most with the Serverless Framework, which names the "
            f"role NAME-dev-{made.region}-lambdaRole, and IAM takes {_MAX_ROLE}"
        )
    text = without(templates.text("serverless.yml"), 2, _OF_ONE_MODEL)
    service = templates.parse(without(text, 4, _CONDITIONS_OF_ONE_MODEL))
    service["service"] = made.name
    custom = service["custom"]
    for name, value in _defaults(made).items():
        custom[name] = f"${{param:{name}, {value}}}"
    provider = service["provider"]
    provider["region"] = f"${{opt:region, '{made.region}'}}"
    provider["environment"] = dict(made.environment)
    if made.statements:
        provider["iam"]["role"]["statements"] = list(made.statements)
    else:
        del provider["iam"]
    return {"serverless.yml": headed(templates.dump(service), _heading(made))}


def _heading(made: Function) -> list[str]:
    lines = [
        "Decant on AWS Lambda, for the Serverless Framework 3 and 4 and for osls. In this directory:",
        "",
        f"    npx osls deploy{'' if made.image else f' --param=image={made.repository}@$digest'}",
        "",
        *made.about_the_digest(),
    ]
    if made.reserved:
        lines += ["New accounts have too few instances to reserve any; add --param=reservedConcurrency=-1 there."]
    return lines


def _defaults(made: Function) -> dict[str, str]:
    image = {"image": f"'{made.image}'"} if made.image else {}
    return {
        **image,
        "architecture": f"'{made.architecture}'",
        "memory": str(made.memory),
        "ephemeralStorage": str(made.storage),
        "timeout": str(made.timeout),
        "reservedConcurrency": str(made.reserved or -1),
        "provisionedConcurrency": str(made.provisioned),
        "functionUrlAuth": f"'{made.url_auth}'",
    }
