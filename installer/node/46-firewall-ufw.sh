# shellcheck shell=bash
# ufw: rules by its own command, which keeps them; `ufw show added` lists them as they are given.

ufw_active() { systemctl is-active -q ufw >/dev/null 2>&1 </dev/null && grep -qs '^ENABLED=yes' /etc/ufw/ufw.conf; }

ufw_off() {
  record ufw-off yes
  logged ufw disable
}

undo_ufw_off() { ! command -v ufw >/dev/null 2>&1 || logged ufw --force enable; }

# ufw_rules: what the role needs, a rule a line.
ufw_rules() {
  local item
  for item in $(ports_of "$ROLE"); do
    case $item in
      */*) printf 'allow %s\n' "${item/-/:}" ;;
      *) printf 'allow to any proto %s\n' "$item" ;;
    esac
  done
  for item in $(pod_sources); do printf 'allow from %s\nroute allow from %s\nroute allow to %s\n' "$item" "$item" "$item"; done
}

ufw_has() { grep -Fxq -- "ufw $1" <<<"$(ufw show added 2>/dev/null </dev/null)"; }

ufw_open() {
  local rule words
  while read -r rule; do
    if ufw_has "$rule"; then continue; fi
    record ufw "$rule"
    read -r -a words <<<"$rule"
    logged ufw "${words[@]}" || die $E_ENVIRONMENT "ufw does not take the rule: $rule" "see $LOG"
  done < <(ufw_rules)
}

undo_ufw() {
  local words
  if ! command -v ufw >/dev/null 2>&1 || ! ufw_has "$1"; then return 0; fi
  read -r -a words <<<"$1"
  case $1 in
    'route '*) logged ufw route delete "${words[@]:1}" ;;
    *) logged ufw delete "${words[@]}" ;;
  esac
}
