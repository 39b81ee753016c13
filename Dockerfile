# Decant in one image: AWS Lambda, Cloud Run, Container Apps, Knative, docker run.
# Any image with Python 3.11 to 3.13 and glibc 2.28 (x86_64) or 2.35 (arm64) will do as a base.
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS installed
COPY requirements/image.txt /src/requirements/image.txt
RUN --mount=type=cache,target=/var/cache/pip \
    python -m venv --without-pip /opt/decant && \
    python -m pip --python /opt/decant/bin/python --disable-pip-version-check --cache-dir /var/cache/pip install \
        --no-compile --only-binary :all: --require-hashes -r /src/requirements/image.txt
COPY infra/slim.py /src/infra/slim.py
RUN python /src/infra/slim.py installed /opt/decant

FROM ${PYTHON_IMAGE} AS product
COPY infra/slim.py /src/infra/slim.py
COPY pyproject.toml /src/pyproject.toml
COPY model_cache /src/model_cache
COPY runtime /src/runtime
COPY handlers /src/handlers
RUN python /src/infra/slim.py product /src /opt/decant --root /out

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="Decant" \
      org.opencontainers.image.description="OpenVINO models over the TensorFlow Serving contract, cold start first" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN --mount=type=bind,from=installed,source=/src/infra,target=/src python /src/slim.py base
COPY --from=installed /opt/decant /opt/decant
COPY --from=product /out /
COPY --chmod=755 infra/entrypoint.sh infra/healthcheck.py /opt/decant/bin/

# The root file system may be read-only; /tmp is all that Decant and its libraries write to.
ENV PATH=/opt/decant/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    LANG=C.UTF-8 \
    PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER 10001:10001
EXPOSE 8500 8501
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=3s --start-period=120s CMD ["python", "-IS", "/opt/decant/bin/healthcheck.py"]
ENTRYPOINT ["/opt/decant/bin/entrypoint.sh"]
