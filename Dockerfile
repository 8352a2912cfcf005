# The command `eto` in a slim image, without root rights. In a clone:
#   docker build -t eto-gym .
#   docker run --rm --user "$(id -u)" -v "$PWD/runs:/work/runs" eto-gym \
#       eval --env ETO-WebShop-v0 --policy random --dataset mini --out runs/random
# There is no PyTorch in it. For local models and training, add --build-arg EXTRAS=scienceworld,plot,train.
FROM python:3.12-slim AS build
ARG EXTRAS=scienceworld,plot,openai
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE eto_verifiers.py ./
COPY baselines/published.toml baselines/
COPY eto_envs eto_envs
COPY eto_agents eto_agents
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir -c requirements.lock ".[$EXTRAS]"

FROM python:3.12-slim
COPY --from=build /venv /venv
# Any user may write to /work, so that --user works with files of the host.
RUN useradd --no-create-home --home-dir /work eto && mkdir --mode=1777 /work
USER eto
WORKDIR /work
ENV HOME=/work PATH=/venv/bin:$PATH
ENTRYPOINT ["eto"]
CMD ["--help"]
