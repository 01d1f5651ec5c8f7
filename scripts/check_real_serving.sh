#!/bin/sh
# Asks a real TensorFlow Serving what the contract tests ask the double (serving/double/server.py).
#
#   scripts/check_real_serving.sh [PYTEST OPTIONS]
#
# With a tensorflow_model_server on the PATH, that one is started with the flags and files of the deployment
# (serving/docker-compose.yml, serving/config), but on free ports and with models that the tests make.
# A server that runs already is asked instead where these are set; it is not changed, and what needs the tests' own
# models is skipped:
#
#   SERVING_REST_URL=http://127.0.0.1:8501
#   SERVING_GRPC_ADDRESS=127.0.0.1:8500
#   SERVING_MODEL=models/ladnn             folder of the versions that it serves; its name is the model's
#   SERVING_LABELS=stable=1,canary=2       its labels, if there are any
#
# PYTHON is the interpreter; without it .venv/bin/python. Exit status: pytest's; 2 if there is no server to ask.
set -eu

if [ -n "${SERVING_REST_URL:-}${SERVING_GRPC_ADDRESS:-}${SERVING_MODEL:-}" ]; then
    for name in SERVING_REST_URL SERVING_GRPC_ADDRESS SERVING_MODEL; do
        eval "value=\${$name:-}"
        if [ -z "$value" ]; then
            echo "error: $name is not set; a server that runs is asked by SERVING_REST_URL, SERVING_GRPC_ADDRESS" \
                "and SERVING_MODEL together" >&2
            exit 2
        fi
    done
    # The tests run elsewhere.
    SERVING_MODEL=$(cd "$SERVING_MODEL" && pwd) || exit 2
    export SERVING_REST_URL SERVING_GRPC_ADDRESS SERVING_MODEL
    echo "asking the server at $SERVING_REST_URL and $SERVING_GRPC_ADDRESS, which serves $SERVING_MODEL"
elif SERVING_BINARY=$(command -v tensorflow_model_server); then
    export SERVING_BINARY
    echo "asking $SERVING_BINARY"
else
    echo "error: there is no real TensorFlow Serving to ask: no tensorflow_model_server on the PATH, and no" \
        "SERVING_REST_URL, SERVING_GRPC_ADDRESS and SERVING_MODEL. Nothing was checked" >&2
    exit 2
fi

cd "$(dirname "$0")/.."
exec "${PYTHON:-.venv/bin/python}" -m pytest tests/test_serving_contract.py "$@"
