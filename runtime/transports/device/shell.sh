# The far side of a device link where there is no Python: POSIX sh, tar, and what Linux tells in
# /proc and /sys. One request each time; its words come as lines of stdin, never through a command
# line, and "put" is followed by an archive. Answers stand between "edgec begin" and "edgec end";
# a line "edgec alive" now and then tells that the link is.

alive() { printf 'edgec alive\n'; }

failed() {
    printf 'edgec failed %s\n' "$1"
    shift
    printf '%s\n' "$*"
    printf 'edgec end\n'
    exit 0
}

# a failure to write: the disk is full, or the folder is another's
unwritable() {
    case $1 in
    *'No space left'* | *'quota exceeded'*) failed full "$1" ;;
    *) failed system "$1" ;;
    esac
}

pause() { sleep 0.2 2>/dev/null || sleep 1; }

waited() {
    while kill -0 "$1" 2>/dev/null; do
        alive
        pause
    done
    wait "$1"
}

word() { IFS= read -r "$1"; }

first() { IFS= read -r line 2>/dev/null <"$1" && printf '%s %s\n' "$2" "$line"; }

environment() {
    printf 'machine %s\n' "$(uname -m)"
    printf 'system %s\n' "$(uname -sr)"
    for name in model_name Model Hardware; do
        cpu=$(sed -n "s/^$(printf %s "$name" | tr _ ' ')[[:space:]]*: //p" /proc/cpuinfo 2>/dev/null | head -n 1)
        [ -z "$cpu" ] || { printf 'cpu %s\n' "$cpu" && break; }
    done
    board=$(tr -d '\0' 2>/dev/null </proc/device-tree/model) && printf 'board %s\n' "$board"
    printf 'cpus %s\n' "$(grep -c '^processor' /proc/cpuinfo 2>/dev/null)"
    first /proc/loadavg load
    cpufreq=$sys/devices/system/cpu/cpu0/cpufreq
    first "$cpufreq/scaling_governor" governor
    first "$cpufreq/scaling_cur_freq" clock_khz
    mode=$(nvpmodel -q 2>/dev/null | sed -n 's/.*Power Mode: *//p' | head -n 1)
    [ -z "$mode" ] || printf 'power_mode %s\n' "$mode"
    first "$sys/devices/platform/soc/soc:firmware/get_throttled" throttled
    for zone in "$sys"/class/thermal/thermal_zone*; do
        IFS= read -r kind 2>/dev/null <"$zone/type" || continue
        IFS= read -r value 2>/dev/null <"$zone/temp" || continue
        printf 'temperature %s %s\n' "$value" "$kind"
    done
    for name in ro.product.manufacturer ro.product.model ro.soc.manufacturer ro.soc.model \
        ro.build.version.release ro.build.version.sdk; do
        value=$(getprop "$name" 2>/dev/null) && [ -n "$value" ] && printf '%s %s\n' "$name" "$value"
    done
    return 0
}

# files of meters: "counter MAXIMUM PATH NAME" in microjoules, "power FACTOR PATH [PATH] NAME"
meters() {
    for zone in "$sys"/class/powercap/intel-rapl:*; do
        case ${zone##*/} in *:*:*) continue ;; esac
        IFS= read -r most 2>/dev/null <"$zone/max_energy_range_uj" || continue
        IFS= read -r name 2>/dev/null <"$zone/name" || continue
        printf 'counter\t%s\t%s/energy_uj\t-\tRAPL %s\n' "$most" "$zone" "$name"
    done
    for chip in "$sys"/bus/i2c/drivers/ina3221/*/hwmon/hwmon*; do
        for current in "$chip"/curr[123]_input; do
            [ -r "$current" ] || continue
            number=${current##*/curr}
            number=${number%_input}
            IFS= read -r name 2>/dev/null <"$chip/in${number}_label" || continue
            printf 'power\t1\t%s\t%s/in%s_input\tINA3221 %s\n' "$current" "$chip" "$number" "$name"
        done
    done
    for rail in "$sys"/bus/i2c/drivers/ina3221x/*/iio:device*/in_power[012]_input; do
        [ -r "$rail" ] || continue
        number=${rail##*/in_power}
        IFS= read -r name 2>/dev/null <"${rail%/*}/rail_name_${number%_input}" || continue
        printf 'power\t1000\t%s\t-\tINA3221 %s\n' "$rail" "$name"
    done
    for power in "$sys"/bus/i2c/drivers/ina238/*/hwmon/hwmon*/power1_input; do
        [ -r "$power" ] || continue
        printf 'power\t1\t%s\t-\tINA238 VIN\n' "$power"
    done
}

# every tenth of a second: what each meter shows, with the seconds since the start of the machine
watch_meters() {
    while [ -d . ]; do
        number=0
        while IFS='	' read -r kind factor path other name; do
            IFS=' ' read -r now rest </proc/uptime
            IFS= read -r value 2>/dev/null <"$path" || value=-
            second=-
            [ "$other" = - ] || IFS= read -r second 2>/dev/null <"$other"
            printf '%s %s %s %s\n' "$number" "$now" "$value" "$second"
            number=$((number + 1))
        done <meters
        sleep 0.1 || exit
    done >trace
}

hello() {
    said=$(mkdir -p "$root/files" "$root/runs" 2>&1) || unwritable "$said"
    find "$root/files" "$root/runs" -mindepth 1 -maxdepth 1 -mtime +30 -exec rm -rf {} + 2>/dev/null
    printf 'machine %s\n' "$(uname -m)"
    for name in cc gcc clang; do
        compiler=$(command -v "$name") || continue
        # a name alone is no compiler: some have it without headers
        printf '#include <stdio.h>\n' | "$compiler" -E - >/dev/null 2>&1 || continue
        printf 'compiler %s\n' "$compiler"
        printf 'version %s\n' "$("$compiler" --version 2>/dev/null | head -n 1)"
        break
    done
    if python3 -c 'import numpy, onnxruntime' 2>/dev/null; then
        printf 'onnxruntime yes\n'
    fi
}

intact() {
    [ -f "$1/SHA256SUMS" ] || return 1
    command -v sha256sum >/dev/null || return 0
    (cd "$1" && sha256sum -c SHA256SUMS >/dev/null 2>&1)
}

have() {
    word package
    folder=$root/files/$package
    if intact "$folder"; then
        touch "$folder"
        printf 'yes\n'
    fi
}

put() {
    word package
    folder=$root/files/$package
    part=$folder.part$$
    rm -rf "$part"
    said=$(mkdir -p "$part" 2>&1 && tar -xf - -C "$part" 2>&1) || {
        rm -rf "$part"
        unwritable "$said"
    }
    intact "$part" || {
        rm -rf "$part"
        failed damaged "the archive arrived damaged"
    }
    rm -rf "$folder"
    said=$(mv "$part" "$folder" 2>&1) || unwritable "$said"
}

build() {
    word package
    word compiler
    word flags
    cd "$root/files/$package" || failed system "$root/files/$package is gone"
    if [ -x bench ] && [ "$(cat bench.made 2>/dev/null)" = "$compiler $flags" ]; then
        return
    fi
    # flags are words of edgec's own, without anything that a shell would expand
    "$compiler" $flags -I. -o bench.part$$ ./*.c kernels/*.c -lm >log.part$$ 2>&1 &
    if waited $!; then
        mv bench.part$$ bench && printf '%s\n' "$compiler $flags" >bench.made
        rm -f log.part$$
    else
        said=$(cat log.part$$)
        rm -f bench.part$$ log.part$$
        case $said in *'No space left'*) failed full "$said" ;; esac
        failed compile "$said"
    fi
}

measure() {
    environment >before
    meters >meters
    seconds=0
    if [ -s meters ]; then
        seconds=$meter_seconds
        watch_meters &
        watcher=$!
    fi
    "$root/files/$package/bench" "$runs" "$warmup" "$step_runs" "$seconds" >out 2>log &
    printf '%s\n' $! >program
    wait $!
    printf '%s\n' $? >status.part
    if [ "$seconds" != 0 ]; then
        sleep 1 # the last readings belong to the loop
        kill "$watcher" 2>/dev/null
    fi
    environment >after
    mv status.part status
}

run() {
    word package
    word id
    word runs
    word warmup
    word step_runs
    word meter_seconds
    home=$root/runs/$id
    if said=$(mkdir "$home" 2>&1); then
        (trap '' HUP && cd "$home" && measure) </dev/null >/dev/null 2>&1 &
        printf '%s\n' $! >"$home/pid"
    fi
    [ -d "$home" ] || unwritable "$said"
    patience=25
    while [ ! -f "$home/status" ]; do
        alive
        pause
        pid=$(cat "$home/pid" 2>/dev/null) || pid=
        if [ -z "$pid" ]; then
            patience=$((patience - 1))
        elif ! kill -0 "$pid" 2>/dev/null; then
            patience=$((patience - 10))
        fi
        [ $patience -gt 0 ] || failed lost "the measurement ended without a trace"
    done
    for part in status before after meters trace out log; do
        printf 'edgec part %s\n' $part
        cat "$home/$part" 2>/dev/null
    done
    printf 'edgec part end\n'
}

# LiteRT's benchmark_model, or any program that writes to its folder
tool() {
    word package
    word program
    word limit
    word arguments
    cd "$root/files/$package" || failed system "$root/files/$package is gone"
    case $program in [0-9a-f]*) program=$root/files/$program ;; esac
    [ -x "$program" ] || failed tool "$program"
    rm -f said profile.csv output.bin
    # arguments are words of edgec's own, without anything that a shell would expand
    "$program" $arguments >said 2>&1 </dev/null &
    until=$(($(date +%s) + limit))
    while kill -0 $! 2>/dev/null; do
        alive
        pause
        if [ "$(date +%s)" -gt $until ]; then
            kill -9 $!
            failed slow "$limit s"
        fi
    done
    wait $!
    printf 'edgec part status\n%s\n' $?
    printf 'edgec part log\n'
    cat said
    printf '\nedgec part profile\n'
    [ ! -f profile.csv ] || cat profile.csv
    printf '\nedgec part output\n'
    [ ! -f output.bin ] || od -An -v -tx1 output.bin
    printf '\nedgec part end\n'
}

stop() {
    word id
    kill "$(cat "$root/runs/$id/program")" 2>/dev/null
    drop
}

drop() { rm -rf "$root/runs/$id"; }

word request
word root
[ -n "$root" ] || root=${HOME:-/tmp}/.cache/edgec-device
sys=${EDGEC_SYS:-/sys}
printf 'edgec begin\n'
case $request in
hello | have | put | build | run | tool | stop | environment) "$request" ;;
drop)
    word id
    drop
    ;;
*) failed request "$request" ;;
esac
printf 'edgec end\n'
