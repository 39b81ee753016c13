#!/bin/sh
# Deploys the service beside this file to Google Cloud Run. It may be run again: what is there already is kept, rights
# on what models were in before among it.
# Needs gcloud, logged in as somebody who may make service accounts and services, and set the bucket's policy.
set -eu

ACCOUNT=decant
# The service's file, beside this one, and metadata.name in it.
FILE=service.yaml
SERVICE=decant
REGION=${REGION:-}
PROJECT_ID=${PROJECT_ID:-$(gcloud config get-value project)}
# Whether requests need no identity.
PUBLIC=false

: "${REGION:?set REGION, such as europe-west1}"
: "${PROJECT_ID:?set PROJECT_ID, or: gcloud config set project PROJECT_ID}"

here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
email="$ACCOUNT@$PROJECT_ID.iam.gserviceaccount.com"

# grant BUCKET < CONDITION: the account may read what the condition leaves of the bucket; without one all of it.
# shellcheck disable=SC2317,SC2329  # nobody calls it where all models are in the image
grant() {
    cat > "$work/condition.json"
    condition=--condition-from-file=$work/condition.json
    [ -s "$work/condition.json" ] || condition=--condition=None
    # An account that has just been made is not known everywhere at once.
    for pause in 2 5 10 20; do
        bind "$1" "$condition" && return
        sleep "$pause"
    done
    bind "$1" "$condition"
}

# shellcheck disable=SC2317,SC2329
bind() {
    gcloud storage buckets add-iam-policy-binding "gs://$1" --project="$PROJECT_ID" \
        --member="serviceAccount:$email" --role=roles/storage.objectViewer "$2" --quiet > /dev/null
}

gcloud services enable run.googleapis.com iam.googleapis.com --project="$PROJECT_ID"

# An account of its own with no rights but those below.
gcloud iam service-accounts describe "$email" --project="$PROJECT_ID" > /dev/null 2>&1 ||
    gcloud iam service-accounts create "$ACCOUNT" --display-name="$SERVICE" --project="$PROJECT_ID"

# Conditions need uniform bucket-level access. Listing is a right on the bucket and shows the names in it; bytes can be
# read below the prefix alone.
grant my-models << 'CONDITION'
{"title": "models in vision/digits", "expression": "resource.name == \"projects/_/buckets/my-models\" || resource.name.startsWith(\"projects/_/buckets/my-models/objects/vision/digits/\")"}
CONDITION

# Only where they are placeholders.
sed -E -e "/^ *(image|serviceAccountName|cloud.googleapis.com.location): /{s/PROJECT_ID/$PROJECT_ID/; s/REGION/$REGION/;}" \
    "$here/$FILE" > "$work/service.yaml"
gcloud run services replace "$work/service.yaml" --region="$REGION" --project="$PROJECT_ID"

if [ "$PUBLIC" = true ]; then
    gcloud run services add-iam-policy-binding "$SERVICE" --region="$REGION" --project="$PROJECT_ID" \
        --member=allUsers --role=roles/run.invoker
else
    # Let in by an earlier run, perhaps: replacing a service leaves its policy as it is.
    everybody=$(gcloud run services get-iam-policy "$SERVICE" --region="$REGION" --project="$PROJECT_ID" \
        --flatten='bindings[].members' --format='value(bindings.members)' \
        --filter='bindings.role=roles/run.invoker AND bindings.members=allUsers')
    if [ -n "$everybody" ]; then
        gcloud run services remove-iam-policy-binding "$SERVICE" --region="$REGION" --project="$PROJECT_ID" \
            --member=allUsers --role=roles/run.invoker
    fi
    echo "It may be called by those whom you let. To let somebody:"
    echo "  gcloud run services add-iam-policy-binding $SERVICE --region=$REGION --project=$PROJECT_ID" \
        "--member=user:YOU@EXAMPLE.COM --role=roles/run.invoker"
fi
gcloud run services describe "$SERVICE" --region="$REGION" --project="$PROJECT_ID" --format='value(status.url)'
