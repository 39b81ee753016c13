#!/bin/sh
# Deploys main.bicep with the parameters beside this file. It may be run again.
# Needs az, logged in as somebody who may deploy to the group and assign roles in it.
set -eu

NAME=decant
GROUP=${GROUP:-decant}
LOCATION=${LOCATION:-}

: "${LOCATION:?set LOCATION, such as westeurope}"

here=$(cd "$(dirname "$0")" && pwd)

az group create --name "$GROUP" --location "$LOCATION" --output none
az deployment group create --name "$NAME" --resource-group "$GROUP" --template-file "$here/main.bicep" \
    --parameters "@$here/main.parameters.json" --parameters location="$LOCATION" --output none
az deployment group show --name "$NAME" --resource-group "$GROUP" --query properties.outputs.url.value --output tsv
