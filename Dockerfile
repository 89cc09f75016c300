# UGround in an image: build.sh makes the environment, a user without rights and without a home runs it.
#
#   docker build -t uground .
#   docker build -t uground-cpu --build-arg UGROUND_TORCH_INDEX_URL=URL .
#
# UGROUND_TORCH_INDEX_URL means what it means to build.sh: the package index of a CPU build of torch, or of a certain
# CUDA; pytorch.org/get-started lists them. Left out, pip chooses, on Linux with an x86 processor a CUDA build. CUDA's
# libraries come with torch, so that the machine needs NVIDIA's driver and container toolkit only.

# The full image, not the slim one: torch.compile and DeepSpeed's extensions need its C++ compiler.
ARG BASE_IMAGE=python:3.12-bookworm
FROM ${BASE_IMAGE}

ARG UGROUND_TORCH_INDEX_URL=""
ENV PIP_NO_CACHE_DIR=1 PYTHONDONTWRITEBYTECODE=1

WORKDIR /uground
# The environment before the sources: a change of the code does not install everything again.
COPY build.sh requirements.txt ./
RUN ./build.sh

COPY . .
# What is written to, unless folders are mounted there.
RUN mkdir -p dataset runs vis_output && chown 1000:1000 dataset runs vis_output
# A user id without a name or a home is enough: caches go to the folder that everybody has.
ENV PATH=/uground/.venv/bin:$PATH HOME=/tmp USER=uground

USER 1000:1000
# Page or service, as the variables say (docs/service.md); it listens to the container itself unless UGROUND_HOST asks.
EXPOSE 7860
CMD ["python", "app.py"]
