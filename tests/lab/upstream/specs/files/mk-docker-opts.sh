#!/bin/sh
# Lab stand-in for flannel's program of that name: mk-docker-opts.sh -k KEY -d FILE
# shellcheck source=/dev/null
. /run/flannel/subnet.env
printf '%s=" --bip=%s --ip-masq=%s --mtu=%s"\n' "$2" "$FLANNEL_SUBNET" "$([ "$FLANNEL_IPMASQ" = true ] && echo false || echo true)" "$FLANNEL_MTU" > "$4"
