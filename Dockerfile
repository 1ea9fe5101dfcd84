# Three images, one per target: `docker build --target api .` (or worker, worker-gpu). Needs BuildKit, Docker >= 25.
# An image is Python, one virtual environment and, for workers, the models; what built them stays behind.

FROM python:3.12-slim-trixie AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore \
    PIP_CACHE_DIR=/pip


# What each part needs, read from pyproject.toml. Later stages depend on the lists alone, so that other edits of that
# file, and all edits of the source, leave the installed dependencies cached.
FROM base AS requirements
WORKDIR /lists
COPY pyproject.toml ./
RUN python -c "import tomllib; \
    project = tomllib.load(open('pyproject.toml', 'rb'))['project']; \
    extras = project['optional-dependencies']; \
    lists = {'api': project['dependencies'] + extras['s3'] + extras['grpc'], 'cpu': extras['cpu'] + extras['audio'], 'gpu': extras['gpu'] + extras['audio']}; \
    [print(*needs, sep='\n', file=open(name + '.txt', 'w')) for name, needs in lists.items()]"


FROM base AS wheel
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY api api
COPY background background
COPY batching batching
COPY cli cli
COPY jitney jitney
COPY jobs jobs
COPY model_runtime model_runtime
COPY worker worker
RUN --mount=type=cache,target=/pip \
    pip wheel --no-deps --wheel-dir /wheel .


# Ready-made wheels only: nothing is compiled, so no image ever needs a compiler.
FROM base AS api-dependencies
COPY --from=requirements /lists/api.txt /lists/
RUN python -m venv --without-pip /srv/jitney
RUN --mount=type=cache,target=/pip \
    pip --python /srv/jitney install --only-binary=:all: -r /lists/api.txt

FROM api-dependencies AS worker-dependencies
COPY --from=requirements /lists/cpu.txt /lists/
RUN --mount=type=cache,target=/pip \
    pip --python /srv/jitney install --only-binary=:all: -r /lists/cpu.txt

# onnxruntime-gpu[cuda,cudnn]: the libraries of CUDA 13 and cuDNN 9 come as wheels too, about 1.5 GB.
FROM api-dependencies AS worker-gpu-dependencies
COPY --from=requirements /lists/gpu.txt /lists/
RUN --mount=type=cache,target=/pip \
    pip --python /srv/jitney install --only-binary=:all: -r /lists/gpu.txt


# No home, no shell, a fixed number: so it can be named in a volume's rights and in a cluster's policies.
FROM base AS runtime
RUN groupadd --gid 10001 jitney \
    && useradd --uid 10001 --gid jitney --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin jitney
ENV PATH=/srv/jitney/bin:$PATH
STOPSIGNAL SIGTERM


# No numpy, Pillow or ONNX Runtime here; obstore, for JITNEY_BULK_STORE=s3://bucket/prefix; grpcio, for JITNEY_GRPC_PORT. Listens on loopback inside the container until JITNEY_HOST says otherwise.
FROM runtime AS api
COPY --from=api-dependencies /srv/jitney /srv/jitney
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip --python /srv/jitney install --no-cache-dir --no-index --no-deps /wheel/*.whl
# Where batches' files lie, if a volume is mounted there: it takes its owner from here.
RUN mkdir /bulk && chown 10001:10001 /bulk
ENV JITNEY_BULK_STORE=/bulk
USER 10001:10001
EXPOSE 8000
# Liveness only. Readiness is /readyz, which a restart of the gateway cannot repair.
HEALTHCHECK --interval=10s --timeout=3s --retries=3 --start-period=30s --start-interval=1s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen('http://127.0.0.1:%s/healthz' % (os.environ.get('JITNEY_PORT') or os.environ.get('PORT') or 8000), timeout=2)"]
CMD ["jitney", "api"]


# A worker has no port and no HEALTHCHECK: it announces itself in the queue, and the gateway's /readyz and /v1/models
# say who does. Mount a folder at /models to serve other models than the bundled one.
# ONNX Runtime's wheels report their use to Microsoft over HTTPS unless ORT_DISABLE_TELEMETRY is set before they load.
FROM runtime AS worker
COPY --from=worker-dependencies /srv/jitney /srv/jitney
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip --python /srv/jitney install --no-cache-dir --no-index --no-deps /wheel/*.whl
COPY models /models
ENV JITNEY_MODELS_DIR=/models \
    ORT_DISABLE_TELEMETRY=1
USER 10001:10001
CMD ["jitney", "worker"]


# The host brings NVIDIA's driver, 580 or newer for CUDA 13, and nvidia-container-toolkit, which puts the driver's
# libcuda.so.1 into the container: `docker run --gpus all`. No CUDA on the host, no CUDA base image, no LD_LIBRARY_PATH:
# the worker has ONNX Runtime load the wheels' libraries by itself (preload_dlls).
FROM runtime AS worker-gpu
COPY --from=worker-gpu-dependencies /srv/jitney /srv/jitney
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    pip --python /srv/jitney install --no-cache-dir --no-index --no-deps /wheel/*.whl
COPY models /models
# What TensorRT builds, if a volume is mounted there. TensorRT itself is not in the image: the extra `tensorrt` has it.
RUN mkdir /engines && chown 10001:10001 /engines
ENV JITNEY_MODELS_DIR=/models \
    JITNEY_TENSORRT_CACHE_DIR=/engines \
    ORT_DISABLE_TELEMETRY=1 \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001:10001
CMD ["jitney", "worker"]
