#!/bin/sh
# The image's one way in: the Lambda runtime client where Lambda says that it is there, else the command line.
#
# A shell script because nothing starts faster: dash adds half a millisecond, a Python to decide this would add ten.
# Each branch execs, so Python is process 1 and gets the platform's signals itself.
set -eu

if [ -z "${AWS_LAMBDA_RUNTIME_API:-}" ]; then
    # What manifests for OpenVINO Model Server and its ancestor in Python say in front of the command itself.
    case "${1:-}" in
    */start_server.sh)
        shift
        ;;
    */ovms)
        shift
        set -- ovms "$@"
        ;;
    esac
    exec decant "$@"
fi

case "${1:-}" in
-*)
    echo "decant: flags do not reach a Lambda function; set DECANT_MODEL_NAME, DECANT_MODEL_PATH, … instead of: $*" >&2
    exit 64
    ;;
esac

# As with AWS's own images, the function's command may name another handler.
exec python -m awslambdaric "${1:-handlers.aws_lambda.handler}"
