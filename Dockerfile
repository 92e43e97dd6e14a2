# The panel as a page on a machine with an NVIDIA GPU; also what an image for a cloud's market can be made of.
#   docker build --tag svdkit .
#   docker run --gpus all --publish 127.0.0.1:8866:8866 --volume svdkit:/data svdkit
# It prints an address with a token, without which nobody gets in; SVDKIT_APP_TOKEN chooses the token. Weights and results
# stay in the volume. Reached from elsewhere, it belongs behind an SSH tunnel or HTTPS: the token travels as it is.
ARG BASE=pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime
FROM ${BASE}

SHELL ["/bin/bash", "-o", "pipefail", "-c"]
# Debian's and Ubuntu's Python else refuse pip; in a container there is nothing to protect.
ENV PIP_BREAK_SYSTEM_PACKAGES=1

# The image's own torch fits its CUDA: what is there is written down, and pip has to respect it.
WORKDIR /opt/svdkit
COPY pyproject.toml README.md LICENSE ./
COPY svdkit svdkit
COPY notebooks notebooks
RUN python -m pip list --format freeze | grep -iE '^(torch|torchvision|torchaudio|numpy)==' > /tmp/keep.txt \
    && python -m pip install --no-cache-dir --constraint /tmp/keep.txt '.[app]'

RUN useradd --create-home --uid 10001 svdkit && mkdir /data && chown 10001 /data
USER 10001
WORKDIR /data
ENV HF_HOME=/data/huggingface PYTHONUNBUFFERED=1
VOLUME /data
EXPOSE 8866
CMD ["/bin/sh", "-c", "export SVDKIT_APP_TOKEN=\"${SVDKIT_APP_TOKEN:-$(python -c 'import secrets; print(secrets.token_urlsafe(18))')}\" && exec svdkit app --host 0.0.0.0 --no-browser"]
