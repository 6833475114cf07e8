# shellcheck shell=bash
# Sourced by the scripts in benches/: puts Rust's and the system's tools into reach of a bare
# environment, and checks the options before anything is built. Ends the script with 2 where they
# are wrong, with 0 behind --help.

export HOME="${HOME:-$(getent passwd "$(id -u)" | cut -d: -f6)}"
PATH="${PATH:+$PATH:}$HOME/.cargo/bin:/usr/local/cargo/bin"
export PATH="$PATH:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# The least that an option of a bench takes; nothing where the bench has no such option.
option_min() {
    case "$1 $2" in
        "idle --members") echo 10 ;;
        "bigroom --members") echo 10 ;;
        "echo --members" | "idle --rounds" | "boxes --rounds" | "scrape --rounds") echo 1 ;;
        "bigroom --seconds") echo 4 ;;
        "storm --seconds" | "echo --seconds" | "boxes --seconds") echo 1 ;;
        "million --seconds") echo 0 ;;
        "holding --seconds") echo 25 ;;
        "million --connections" | "holding --connections") echo 100 ;;
    esac
}

# Which options a bench has, for people.
usage() {
    local option line="usage: benches/$1"
    for option in --connections --members --rounds --seconds; do
        [ -z "$(option_min "$1" "$option")" ] ||
            line+=" [$option N (at least $(option_min "$1" "$option"))]"
    done
    [ "$1" != storm ] || line+=" [--long]"
    printf '%s\n' "$line [--json] [--record]; what it measures: benches/README.md"
}

wrong_options() {
    printf 'benches/%s: %s\n' "$1" "$2" >&2
    usage "$1" >&2
    exit 2
}

check_options() {
    local bench=$1 least
    shift
    while [ "$#" != 0 ]; do
        least=$(option_min "$bench" "$1")
        if [ "$1" = --help ] || [ "$1" = -h ]; then
            usage "$bench"
            exit 0
        elif [ -n "$least" ]; then
            # Nine digits are more than any box holds, and no surprise to arithmetic.
            [[ ${2-} =~ ^[0-9]{1,9}$ ]] || wrong_options "$bench" "$1 takes a number, not '${2-}'"
            [ "$((10#$2))" -ge "$least" ] ||
                wrong_options "$bench" "$1 takes a number from $least on, not $2"
            shift
        elif [ "$1" != --json ] && [ "$1" != --record ] && [ "$bench $1" != "storm --long" ]; then
            wrong_options "$bench" "there is no option $1"
        fi
        shift
    done
    [ -z "${RINGHALL_BIN-}" ] || [ -x "$RINGHALL_BIN" ] ||
        wrong_options "$bench" "RINGHALL_BIN is $RINGHALL_BIN, which cannot be run; unset, the \
server is built"
}
