#!/usr/bin/env bash
# Prints the cost of the TPU per hour at list price, and its cost since it was created. An estimate, not a bill.
#
# Usage: cost.sh [--api tpu|compute] [--spot] [--hours H] [--dry-run]
#   --hours  the cost of this many hours, instead of since creation (makes no request to the cloud)
# Reads PROJECT ZONE TPU_NAME TPU_TYPE; PRICE, US dollars per chip-hour, replaces the list price and is needed with --spot.

. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
hours=''
own_option() {
  if [ "$1" = --hours ]; then
    [ $# -gt 1 ] || die "$1 needs a number"
    hours=$2 TAKEN=2
  fi
}
parse "$@"
need PROJECT ZONE TPU_NAME TPU_TYPE
[ "$CHIPS" -gt 0 ] || die "TPU_TYPE=$TPU_TYPE: its number of chips is not known here"
decimal='^[0-9]{1,6}(\.[0-9]{1,4})?$'
[[ -z $hours || $hours =~ $decimal ]] || die "$(printf -- '--hours=%q is no number' "$hours")"

# On-demand list prices of US regions, dollars a chip-hour (cloud.google.com/tpu/pricing, read in 2025).
case $TPU_TYPE in
  v4-*) price=3.22 ;;
  v5litepod-* | v5e-*) price=1.20 ;;
  v5p-*) price=4.20 ;;
  v6e-*) price=2.70 ;;
  *) price='' ;;
esac
if [ "$SPOT" = 1 ]; then price=''; fi # follows the market
price=${PRICE:-$price}
[ -n "$price" ] || die "no price is known for $TPU_TYPE$([ "$SPOT" = 0 ] || echo ' on Spot'); set PRICE (dollars a chip-hour)"
[[ $price =~ $decimal ]] || die "$(printf 'PRICE=%q is no number' "$price")"
awk -v c="$CHIPS" -v p="$price" -v t="$TPU_TYPE" \
  'BEGIN { printf "%s: %d chips x $%.2f = $%.2f an hour\n", t, c, p, c * p }'

if [ -z "$hours" ]; then
  if [ "$API" = tpu ]; then
    ask=(gcloud compute tpus tpu-vm describe "$TPU_NAME" "${PLACE[@]}" '--format=value(createTime)')
  elif [ "$HOSTS" -gt 1 ]; then
    ask=(gcloud compute instance-groups managed describe "$TPU_NAME" "${PLACE[@]}"
      '--format=value(creationTimestamp)')
  else
    ask=(gcloud compute instances describe "$TPU_NAME" "${PLACE[@]}" '--format=value(creationTimestamp)')
  fi
  if [ "$DRY_RUN" = 1 ]; then run "${ask[@]}" && exit; fi
  made=$("${ask[@]}") || die "$TPU_NAME: not there, so it costs nothing now" 66
  hours=$(awk -v a="$(date -d "$made" +%s)" -v b="$(date +%s)" 'BEGIN { printf "%.2f", (b - a) / 3600 }')
fi
awk -v h="$hours" -v c="$CHIPS" -v p="$price" 'BEGIN { printf "%.2f hours: $%.2f\n", h, h * c * p }'
