#!/bin/bash
# Whether a version of a model answers: exit status 0, or 1 with the reason on stderr, 2 after a wrong call.
#     bash available.sh PORT MODEL VERSION
#     bash available.sh PORT MODEL LABEL [VERSION]      the label stands for this version
# Written for the image tensorflow/serving, which has bash but neither curl nor Python. An answer 200 is not
# enough: the status URL gives it whatever the state, and the port is open as soon as any version is loaded. The
# status URL does not know labels; the metadata URL does, and says which version a label stands for.
set -u
if [[ $# -lt 3 || $# -gt 4 ]]; then
  echo "usage: bash available.sh PORT MODEL VERSION | PORT MODEL LABEL [VERSION]" >&2
  exit 2
fi
port=$1 model=$2 wanted=$3 expected=${4:-}

get() {
  local answer
  exec 3<>"/dev/tcp/127.0.0.1/$port" || return
  printf 'GET /v1/models/%s HTTP/1.0\r\nHost: localhost\r\n\r\n' "$1" >&3
  answer=$(timeout 4 cat <&3)
  exec 3>&-
  echo "${answer#*$'\r\n\r\n'}"
}

version=$wanted
if [[ ! $wanted =~ ^[0-9]+$ ]]; then
  metadata=$(get "$model/labels/$wanted/metadata")
  if [[ ! $metadata =~ \"version\":\ *\"([0-9]+)\" ]]; then
    echo "$model: label $wanted stands for no loaded version: ${metadata:-no answer from port $port}" >&2
    exit 1
  fi
  version=${BASH_REMATCH[1]}
fi
if [[ -n $expected && $version != "$expected" ]]; then
  echo "$model: $wanted stands for version $version, not $expected" >&2
  exit 1
fi
status=$(get "$model/versions/$version")
if [[ ! $status =~ \"state\":\ *\"AVAILABLE\" ]]; then
  echo "$model: version $version is not AVAILABLE: ${status:-no answer from port $port}" >&2
  exit 1
fi
