#!/bin/sh
# Deploys the service beside this file to the cluster and the namespace that kubectl is set to.
# It may be run again. Needs kubectl, and Knative Serving in the cluster.
set -eu

# The service's file, beside this one, and metadata.name in it.
FILE=service.yaml
SERVICE=decant
NAMESPACE=${NAMESPACE:-}

here=$(cd "$(dirname "$0")" && pwd)

# in_namespace ARGUMENT...: kubectl, in NAMESPACE if that is set.
in_namespace() {
    kubectl ${NAMESPACE:+--namespace="$NAMESPACE"} "$@"
}

in_namespace apply -f "$here/service-account.yaml"
in_namespace apply -f "$here/$FILE"
in_namespace wait "ksvc/$SERVICE" --for=condition=Ready --timeout=600s
in_namespace get "ksvc/$SERVICE" --output=jsonpath='{.status.url}{"\n"}'
