# What `apply`, `check` and `revert` share: how a file of sysctl.d is read, and a value is judged.
#
# In:    a file of settings; the values under /proc/sys.
# Out:   keys, wanted values, what a box would have to be set to; the file of old values.
# Never: sets a value (`put` aside, which the callers call), or believes a file that others may
#        write.
#
# Sourced by bash with `set -euf`. Functions that give a value print it, or set the names that
# stand above them.

LC_ALL=C
PATH="${PATH:-}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
umask 022

program=$(basename -- "$0")
settings=$here/sysctl.d/90-ringhall.conf
state=/var/lib/ringhall
boot_file=/etc/sysctl.d/90-ringhall.conf
# The first line of a boot file that is ours to replace and to remove.
boot_mark="# Written by tuning/apply --boot; tuning/revert removes it."

fail() {
    local code=$1
    shift
    printf '%s: %s\n' "$program" "$*" >&2
    exit "$code"
}

# The comment at the top of the script is its help.
show_help() {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"
}

# The file of settings that is asked for.
named=""
name_settings() {
    [ -z "$named" ] || fail 2 "one file at a time: $named or $1"
    named=$1 settings=$1
}

# command_of SCRIPT: how to call another of the three for the same folder and file, as a shell
# takes it.
command_of() {
    local words=("$here/$1")
    [ "$state" = /var/lib/ringhall ] || words+=(--state "$(realpath -m -- "$state")")
    [ "$1" = revert ] || [ -z "$named" ] || words+=("$(realpath -m -- "$named")")
    printf '%q ' "${words[@]}" | sed 's/ $//'
}

want_root() {
    [ "$(id -u)" = 0 ] || fail 2 "only root may set these: sudo $0 $*"
}

# --- A file of settings --------------------------------------------------------------------------

# In the file's order, the last of a key that stands twice.
keys=()
declare -A wanted=() optional=()

# read_settings FILE: fills the three above. Ends with all that is wrong with the file.
read_settings() {
    local file=$1 line key value number=0 wrong=() lines=()
    [ -f "$file" ] && [ -r "$file" ] || fail 2 "there is no readable file $file"
    mapfile -t lines <"$file"
    for line in "${lines[@]}"; do
        number=$((number + 1))
        line=$(trim "$line")
        local scaled="" may_lack=""
        case $line in
            '#:'*) scaled=yes line=$(trim "${line#'#:'}") ;;
            '' | '#'* | ';'*) continue ;;
        esac
        case $line in -*) may_lack=yes line=$(trim "${line#-}") ;; esac
        if [[ $line != *=* ]]; then
            wrong+=("line $number: \"$line\" is not KEY = VALUE")
            continue
        fi
        key=$(dotted "$(trim "${line%%=*}")") value=$(trim "${line#*=}")
        if [ -z "$key" ]; then
            wrong+=("line $number: a key is made of letters, digits and . _ - /, such as \
net.core.somaxconn (a pattern with * is not taken)")
        elif [[ $value == *'#'* || $value == *';'* ]]; then
            wrong+=("line $number: a comment has to stand on a line of its own, not behind $key")
        elif [ -z "$value" ]; then
            wrong+=("line $number: $key has no value")
        elif [ -n "$scaled" ] && ! value=$(scale "$value"); then
            wrong+=("line $number: behind \"#:\" there may be pages/N or kib/N, and in A..B; \
$key has \"$value\"")
        else
            forget "$key"
            keys+=("$key") wanted[$key]=$value optional[$key]=$may_lack
        fi
    done
    [ "${#wrong[@]}" = 0 ] || fail 2 "$file: nothing was changed, since"$'\n'"$(printf '  %s\n' "${wrong[@]}")"
    [ "${#keys[@]}" != 0 ] || fail 2 "$file has no setting in it"
}

trim() {
    local text=$1
    text=${text#"${text%%[![:space:]]*}"}
    printf '%s' "${text%"${text##*[![:space:]]}"}"
}

# A key as people write it, or nothing where it is none. As in sysctl.d(5): where a slash comes
# first, slashes separate, and a dot is part of a name (net/ipv4/conf/eth0.1/rp_filter).
dotted() {
    local key=$1 first=${1%%/*}
    [[ $key =~ ^[A-Za-z0-9_][A-Za-z0-9_./:@-]*$ && $key != *..* ]] || return 0
    if [[ $key == */* && $first != *.* ]]; then
        key=$(printf '%s' "$key" | tr './' '/.')
    fi
    printf '%s' "$key"
}

# The reverse: dots separate, a slash stands for a dot.
path_of() {
    printf '/proc/sys/%s' "$(printf '%s' "$1" | tr './' '/.')"
}

forget() {
    local key kept=()
    [ -n "${wanted[$1]+there}" ] || return 0
    for key in "${keys[@]}"; do
        [ "$key" = "$1" ] || kept+=("$key")
    done
    keys=(${kept[@]+"${kept[@]}"})
}

# scale "pages/4 pages/3": parts of the box's memory, in pages or KiB; `in A..B` bounds each.
scale() {
    local kib page word low=0 high=9223372036854775807 figure figures=() words=()
    kib=$(awk '$1 == "MemTotal:" { print $2 }' /proc/meminfo)
    page=$(($(getconf PAGESIZE) / 1024))
    if [[ $1 =~ ^(.*)\ in\ ([0-9]+)\.\.([0-9]+)$ ]]; then
        low=${BASH_REMATCH[2]} high=${BASH_REMATCH[3]}
        read -ra words <<<"${BASH_REMATCH[1]}"
    else
        read -ra words <<<"$1"
    fi
    for word in ${words[@]+"${words[@]}"}; do
        case $word in
            pages/[1-9]*) figure=$((kib / page)) ;;
            kib/[1-9]*) figure=$kib ;;
            *) printf '%s' "$1"; return 1 ;;
        esac
        [[ ${word#*/} =~ ^[0-9]{1,9}$ ]] || { printf '%s' "$1"; return 1; }
        figure=$((figure / ${word#*/}))
        [ "$figure" -ge "$low" ] || figure=$low
        [ "$figure" -le "$high" ] || figure=$high
        figures+=("$figure")
    done
    printf '%s' "${figures[*]}"
}

# --- Values --------------------------------------------------------------------------------------

# What is in force, as the kernel writes it, tabs included.
value_of() {
    cat "$(path_of "$1")" 2>/dev/null
}

# One blank between numbers: what two values are compared by, and shown as.
plain() {
    local words=()
    read -ra words <<<"$1" || true
    printf '%s' "${words[*]-}"
}

# put KEY VALUE: sets it, or prints why the kernel does not.
put() {
    local path why
    path=$(path_of "$1")
    why=$({ printf '%s\n' "$2" >"$path"; } 2>&1) && return 0
    printf '%s' "${why##*: }"
    return 1
}

# Of these more is better, or harmless: what is higher stays. Of a range, the wider.
rule_of() {
    case $1 in
        fs.nr_open | fs.file-max | net.core.somaxconn | net.ipv4.tcp_max_syn_backlog | \
            net.core.netdev_max_backlog | net.ipv4.tcp_mem | net.core.rmem_max | \
            net.core.wmem_max | vm.min_free_kbytes | net.ipv4.tcp_max_tw_buckets | \
            net.ipv4.tcp_max_orphans | net.netfilter.nf_conntrack_max | vm.max_map_count)
            printf 'at least'
            ;;
        net.ipv4.ip_local_port_range) printf 'wider' ;;
        *) printf 'exactly' ;;
    esac
}

# goal KEY CURRENT WANTED: what the key has to be set to, by its rule, number by number.
goal() {
    local rule current=() want=() at result=()
    rule=$(rule_of "$1")
    read -ra current <<<"$2" || true
    read -ra want <<<"$3" || true
    for ((at = 0; at < ${#want[@]}; at++)); do
        local is=${current[at]-} should=${want[at]}
        if [[ $rule = exactly || ! $is =~ ^[0-9]+$ || ! $should =~ ^[0-9]+$ ]]; then
            result+=("$should")
        elif [[ $rule = wider && $at = 0 ]]; then
            result+=("$(lower "$is" "$should")")
        else
            result+=("$(higher "$is" "$should")")
        fi
    done
    printf '%s' "${result[*]}"
}

# Of two numbers of any length (a limit may be 2^64 - 1, which is beyond the shell's arithmetic).
higher() {
    if ((${#1} > ${#2})) || { ((${#1} == ${#2})) && [[ $1 > $2 ]]; }; then
        printf '%s' "$1"
    else
        printf '%s' "$2"
    fi
}

lower() {
    if [ "$(higher "$1" "$2")" = "$1" ]; then printf '%s' "$2"; else printf '%s' "$1"; fi
}

# --- Old values ----------------------------------------------------------------------------------

# In the file's order; each as the kernel wrote it.
saved_keys=()
declare -A saved=()
# The file for later boots that `apply --boot` wrote, if it did.
saved_boot=""

# Ends where the folder's or the file's content could be somebody else's: root is going to set what
# stands there.
want_own() {
    local owner mode
    [ ! -L "$1" ] || fail 2 "$1 is a symbolic link; name a folder of root's own with --state DIR"
    read -r owner mode < <(stat -c '%u %a' -- "$1")
    if [ "$owner" != "$(id -u)" ] || (((8#$mode & 8#022) != 0)); then
        fail 2 "$1 can be written by others than root, and root sets what stands there; \
name a folder of root's own with --state DIR"
    fi
}

# One at a time; to be called where the folder exists.
lock_state() {
    want_own "$state"
    exec 9<"$state"
    flock -n 9 || fail 1 "another apply or revert is at work on $state; wait until it is over"
}

# read_saved: fills the names above from the folder; nothing where there is no such file.
read_saved() {
    local file=$state/sysctl.saved line key lines=()
    [ -e "$file" ] || [ -L "$file" ] || return 0
    want_own "$file"
    mapfile -t lines <"$file"
    for line in ${lines[@]+"${lines[@]}"}; do
        case $line in
            "# boot file: "*) saved_boot=${line#"# boot file: "} ;;
            '#'*) ;;
            *' = '*)
                key=${line%%' = '*}
                [ -n "$(dotted "$key")" ] || fail 2 "$file: \"$line\" is not KEY = VALUE"
                saved_keys+=("$key") saved[$key]=${line#*' = '}
                ;;
            *) fail 2 "$file: \"$line\" is not KEY = VALUE; it is not as apply wrote it: \
put back by hand what it still tells, then move it away" ;;
        esac
    done
}

# write_saved: the reverse. It is on the disk, whole, when this returns.
write_saved() {
    local key new=$state/sysctl.saved.new
    {
        printf '# What tuning/apply found before it set anything; tuning/revert puts it back.\n'
        [ -z "$saved_boot" ] || printf '# boot file: %s\n' "$saved_boot"
        for key in ${saved_keys[@]+"${saved_keys[@]}"}; do
            printf '%s = %s\n' "$key" "${saved[$key]}"
        done
    } >"$new"
    sync -- "$new"
    mv -- "$new" "$state/sysctl.saved"
    sync -- "$state"
}
