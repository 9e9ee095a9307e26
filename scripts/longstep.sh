# Sourced: runs a step that may take minutes, with its output in a log and a line on the console now and then.
#
#   longstep LABEL LOG CMD...
#
# Prints "LABEL: 30 s" every ten seconds and the end of LOG if CMD ends with an error, whose code it returns.

longstep() {
	local label=$1 log=$2 started=$SECONDS ticker code=0
	shift 2
	echo "$label" >&2
	(
		trap 'kill "$nap" 2>/dev/null; exit 0' TERM
		while :; do
			sleep 10 &
			nap=$!
			wait "$nap"
			echo "$label: $((SECONDS - started)) s" >&2
		done
	) &
	ticker=$!
	"$@" >"$log" 2>&1 </dev/null || code=$?
	kill "$ticker" 2>/dev/null
	wait "$ticker" 2>/dev/null || true
	if [ "$code" -ne 0 ]; then
		echo "$label: ended with code $code; the end of $log:" >&2
		tail -n 20 "$log" >&2
	else
		echo "$label: done in $((SECONDS - started)) s" >&2
	fi
	return "$code"
}

# need_root NAME ends the script with one line unless it runs as root.
need_root() {
	if [ "$(id -u)" -ne 0 ]; then
		echo "$1 needs root: it installs packages, mounts file systems and makes network namespaces" >&2
		exit 77
	fi
}
