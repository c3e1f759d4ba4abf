# syntax=docker/dockerfile:1
# The image that every node of a cluster runs, and the one for a single machine with a GPU. x86-64 only: MediaPipe
# 0.10.21 has no other wheels for Linux. Build it from the repository's root; fewer kinds of GPU are built faster:
#   docker build --tag zero1toa:0.1.0 .
#   docker build --tag zero1toa:0.1.0 --build-arg TORCH_CUDA_ARCH_LIST="8.9 9.0" .

# CUDA 13, as torch of uv.lock: an extension cannot be compiled with another major version. The compiler stays in the
# image (devel, not runtime) because gsplat looks for nvcc before it loads even what is compiled already, and because
# Triton and torch.compile call a C compiler while they run.
ARG CUDA=13.2.1
FROM nvidia/cuda:${CUDA}-devel-ubuntu24.04

# Ubuntu 24.04's own Python: with headers, which extensions need, and the same on every node, which Ray needs.
ARG PYTHON=3.12
ARG UV=0.13.9
ARG DEBIAN_FRONTEND=noninteractive
SHELL ["/bin/bash", "-o", "pipefail", "-c"]

# rsync and wget are called by `ray up` and by KubeRay's probes; libgl1 and libglib2.0 are loaded by MediaPipe's OpenCV.
RUN apt-get update \
 && apt-get install --yes --no-install-recommends \
      build-essential ca-certificates git libgl1 libglib2.0-0t64 \
      python${PYTHON}-dev python${PYTHON}-venv rsync wget \
 && rm -rf /var/lib/apt/lists/*

# uv in an environment of its own, apart from the one that it makes.
RUN python${PYTHON} -m venv /opt/uv && /opt/uv/bin/pip install --no-cache-dir uv==${UV}

# Not root. Machines' first users and the volumes in configs/cluster/ have uid 1000, which Ubuntu's image has given to a
# user of its own.
RUN userdel --remove ubuntu && useradd --create-home --uid 1000 --shell /bin/bash ray

ENV UV_PROJECT_ENVIRONMENT=/opt/zero1toa/.venv \
    UV_PYTHON_DOWNLOADS=never \
    UV_LINK_MODE=copy \
    UV_COMPILE_BYTECODE=1 \
    PATH=/opt/zero1toa/.venv/bin:${PATH}
# KubeRay and `ray up` start Ray in login shells, which begin with a PATH of their own.
RUN echo 'export PATH=/opt/zero1toa/.venv/bin:$PATH' > /etc/profile.d/zero1toa.sh
WORKDIR /opt/zero1toa

# Dependencies first: they change seldom, and so this layer of several gigabytes is seldom made again.
COPY pyproject.toml uv.lock ./
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv sync --frozen --no-dev --no-install-project --python python${PYTHON}

# What only a cluster needs: buckets as input, output and source of weights, and AWS for the autoscaler on the head. The
# packages that matter stay as uv.lock has them; fsspec among them chooses the version of s3fs. Leave out what you do
# not use, add gcsfs or adlfs for other clouds.
ARG EXTRAS="s3fs boto3"
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv export --frozen --no-dev --no-emit-project --no-hashes \
      | grep --extended-regexp '^(fsspec|numpy|ray|torch|torchvision)==' > /tmp/kept.txt \
 && /opt/uv/bin/uv pip install --python /opt/zero1toa/.venv --constraint /tmp/kept.txt ${EXTRAS} \
 && rm /tmp/kept.txt

# gsplat compiles itself when it is first imported; here, so that no worker does. The list stays in the environment:
# gsplat compares the compiler's options each time it is loaded, and would compile anew for others. There is no GPU to
# ask while the image is built, hence the list: T4, A100, A10G, L4 and L40S, H100 and H200, B200.
ARG TORCH_CUDA_ARCH_LIST="7.5 8.0 8.6 8.9 9.0 10.0+PTX"
ENV TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST} \
    TORCH_EXTENSIONS_DIR=/opt/torch_extensions
RUN mkdir --mode=755 ${TORCH_EXTENSIONS_DIR} && chown ray:ray ${TORCH_EXTENSIONS_DIR} \
 && mkdir --mode=755 /var/lib/zero1toa && chown ray:ray /var/lib/zero1toa
USER ray
RUN python -c "from gsplat.cuda import _backend; assert _backend._C is not None"
USER root

# The package itself. `ray job submit --working-dir .` puts the submitter's code before it; without, this copy runs.
COPY LICENSE README.md ./
COPY zero1toa zero1toa
COPY ray_jobs ray_jobs
COPY configs configs
# Without its dependencies, which are there and stay as they are.
RUN --mount=type=cache,target=/root/.cache/uv \
    /opt/uv/bin/uv pip install --python /opt/zero1toa/.venv --no-deps . \
 && cd / && python -c "import ray_jobs.generate, zero1toa"

# ZERO1TOA_HOME holds weights, and what is compiled on the node in a folder for each kind of GPU: mount a disk there to
# keep both. TORCHINDUCTOR_CACHE_DIR and TRITON_CACHE_DIR stay unset: actors choose them by GPU and version.
# With uv's hook Ray would start every worker through `uv run` again, with an environment of its own.
ENV ZERO1TOA_HOME=/var/lib/zero1toa \
    RAY_ENABLE_UV_RUN_RUNTIME_ENV=0 \
    RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO=0 \
    RAY_USAGE_STATS_ENABLED=0 \
    PYTHONUNBUFFERED=1

USER ray
WORKDIR /home/ray
CMD ["bash"]
