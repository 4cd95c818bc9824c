#!/usr/bin/env bash
# Creates the TPU: a queued resource of the Cloud TPU API, or machines of Compute Engine. Does not wait for it.
#
# Usage: create.sh [--api tpu|compute] [--spot] [--dry-run]
#   --api tpu      queued resource (v2 to v6e; the API has no newer chips)
#   --api compute  one machine, or workload policy + instance template + managed group for several hosts
#   --spot         cheaper, can be preempted at any time (babysit.sh recreates it)
# Reads PROJECT ZONE TPU_NAME TPU_TYPE; RUNTIME_VERSION or IMAGE_FAMILY replace the software chosen by the type.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
parse "$@"
need PROJECT ZONE TPU_NAME TPU_TYPE
script=startup-script=$TPU_SETUP/bootstrap.sh

if [ "$API" = tpu ]; then
  case $TPU_TYPE in
    v6e-*) version=v2-alpha-tpuv6e ;;
    v5p-*) version=v2-alpha-tpuv5 ;;
    v5litepod-* | v5e-*) version=v2-alpha-tpuv5-lite ;;
    *) version=tpu-ubuntu2204-base ;;
  esac
  options=(--accelerator-type="${TPU_TYPE/#v5e-/v5litepod-}" --runtime-version="${RUNTIME_VERSION:-$version}")
  if [ "$SPOT" = 1 ]; then options+=(--spot); fi
  run gcloud compute tpus queued-resources create "$TPU_NAME" --node-id="$TPU_NAME" "${PLACE[@]}" "${options[@]}" \
    --scopes=https://www.googleapis.com/auth/cloud-platform --metadata-from-file="$script" --quiet
  exit
fi

family=ubuntu-accel-2204-amd64-tpu-v5e-v5p-v6e
if [[ $TPU_TYPE == tpu7x-* ]]; then family=ubuntu-accel-2404-amd64-tpu-tpu7x; fi
options=(--machine-type="$MACHINE" --image-project=ubuntu-os-accelerator-images
  --image-family="${IMAGE_FAMILY:-$family}" --boot-disk-size=200GB --maintenance-policy=TERMINATE
  --scopes=cloud-platform --metadata-from-file="$script")
if [ "$SPOT" = 1 ]; then options+=(--provisioning-model=SPOT --instance-termination-action=DELETE); fi

if [ "$HOSTS" = 1 ]; then
  run gcloud compute instances create "$TPU_NAME" "${PLACE[@]}" "${options[@]}" --quiet
  exit
fi
policy=projects/$PROJECT/regions/$REGION/resourcePolicies/$TPU_NAME
run gcloud compute resource-policies create workload-policy "$TPU_NAME" --project="$PROJECT" --region="$REGION" \
  --type=HIGH_THROUGHPUT --accelerator-topology="$TOPOLOGY" --quiet
run gcloud compute instance-templates create "$TPU_NAME" --project="$PROJECT" "${options[@]}" --quiet
# Replacing one machine would break the slice, so a failed one stays until the whole is made again.
run gcloud compute instance-groups managed create "$TPU_NAME" "${PLACE[@]}" --template="$TPU_NAME" --size="$HOSTS" \
  --workload-policy="$policy" --default-action-on-vm-failure=do-nothing --quiet
