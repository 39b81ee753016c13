# Decant in one image: AWS Lambda, Cloud Run, Container Apps, Knative, Kubernetes, docker run.
# Any image of Debian or Ubuntu with Python 3.11 to 3.13 and glibc 2.28 (x86_64) or 2.35 (arm64) will do as a base. What
# is needed of it is copied, so that it is no layer of the result.
ARG PYTHON_IMAGE=python:3.13-slim

# checkov:skip=CKV_DOCKER_7:the tag is in the argument above, which is not looked into
FROM ${PYTHON_IMAGE} AS libraries
COPY requirements/image.txt /src/requirements/image.txt
RUN --mount=type=cache,target=/var/cache/pip \
    python -m venv --without-pip /out/opt/decant && \
    python -m pip --python /out/opt/decant/bin/python --disable-pip-version-check --cache-dir /var/cache/pip install \
        --no-compile --only-binary :all: --require-hashes -r /src/requirements/image.txt
COPY infra/__init__.py /src/infra/__init__.py
COPY infra/image /src/infra/image
WORKDIR /src
# Model formats besides OpenVINO's own; one that is left out makes the image smaller by 0.5 to 2.5 MB.
ARG FRONTENDS="onnx paddle tensorflow tflite"
RUN python -m infra.image libraries /out --venv /opt/decant --frontends "${FRONTENDS}"

FROM ${PYTHON_IMAGE} AS system
COPY infra/__init__.py /src/infra/__init__.py
COPY infra/image /src/infra/image
WORKDIR /src
RUN --mount=type=bind,from=libraries,source=/out,target=/libraries \
    python -m infra.image system /out --libraries /libraries

FROM ${PYTHON_IMAGE} AS product
COPY pyproject.toml LICENSE serverless.yml /src/
COPY model_cache /src/model_cache
COPY runtime /src/runtime
COPY handlers /src/handlers
COPY infra /src/infra
WORKDIR /src
RUN --mount=type=bind,from=libraries,source=/out,target=/libraries \
    --mount=type=bind,from=system,source=/out,target=/system \
    python -m infra.image product /src /out --venv /opt/decant --below /system --below /libraries

FROM scratch
COPY --from=system /out/ /
COPY --from=libraries /out/ /
COPY --from=product /out/ /

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

# What Lambda asks of images before it takes a snapshot of them: Decant's handler forgets what no two copies may share.
LABEL com.amazonaws.lambda.feature.snapstart="Allow"
ARG SOURCE=""
ARG REVISION=""
ARG CREATED=""
LABEL org.opencontainers.image.title="Decant" \
      org.opencontainers.image.description="OpenVINO models over the TensorFlow Serving contract, cold start first" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
