#!/usr/bin/env bash
# emulate-avx512.sh - run a statically linked x86-64 Linux program on an emulated
# CPU that has AVX-512, on any machine.
#
#   emulate-avx512.sh PROGRAM [ARGS...]     run PROGRAM in the emulator
#   emulate-avx512.sh --build-bochs [TAR]   compile Bochs 3.0 (see below)
#
# How: the PC emulator Bochs boots a Debian kernel whose initramfs holds only
# PROGRAM and a small /init.  /init runs PROGRAM, copies its output (stdout and
# stderr, one stream) byte for byte to the emulated parallel port 1, reports the
# exit status on parallel port 2, and asks Bochs to stop.  Bochs appends what is
# written to those ports to files; this script shows the first one live.
#
# Exit status: the program's own; 128+N if signal N killed it; 124 if the time
# limit passed; 125 if the emulator or the set-up failed.  The exact reason is on
# stderr (lines that start with "emulate-avx512:"), the program's output on stdout.
#
# Debian packages:
#   apt-get install --no-install-recommends \
#     bochs bochs-term bochsbios vgabios isolinux syslinux-common xorriso cpio gcc libc6-dev
#   (coreutils, dpkg, apt and util-linux are assumed.  With a Bochs of your own
#   in $LOWBIT_EMU_BOCHS the packages bochs and bochs-term are not needed.)
#   --build-bochs (2 to 4 minutes on 2 cores) needs: g++ make xz-utils
#   and, unless TAR (Debian 13's bochs_3.0+dfsg.orig.tar.xz) is given, the network.
#
# Environment:
#   LOWBIT_EMU_DIR      work folder, kept (and its kernel and Bochs reused) if
#                       given; default: a mktemp folder, removed at the end.
#   LOWBIT_EMU_KERNEL   linux-image-*.deb, or a vmlinuz; default: the newest
#                       linux-image-cloud-amd64, by "apt-get download".
#   LOWBIT_EMU_BOCHS    Bochs program; default: $LOWBIT_EMU_DIR/bochs/bochs (what
#                       --build-bochs makes), else bochs-bin from the package.
#   LOWBIT_EMU_CPU      Bochs CPU model; default: sapphire_rapids (VNNI, BF16,
#                       FP16) where Bochs has it, else corei7_icelake_u (VNNI).
#                       Also: corei7_skylake_x (F CD BW DQ VL only, no VNNI).
#   LOWBIT_EMU_TIMEOUT  time limit in seconds; default 1800.
#   LOWBIT_EMU_RAM      guest memory in MiB, at least 128; default 512.  (Above
#                       2048 Bochs keeps the rest in a file and may be slow.)
#   LOWBIT_EMU_FILES    folder whose contents are put into the guest's current
#                       folder, /work (small: it lives in guest memory).
#   LOWBIT_EMU_ENV      names of variables to hand on to the program, e.g. "A B".
set -euo pipefail

fail() { echo "emulate-avx512: $*" >&2; exit 125; }

usage() { sed -n '2,/^set -euo/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 125; }
[ $# -ge 1 ] || usage
case $1 in -h|--help) usage ;; esac

# --- tools -------------------------------------------------------------------
missing=()
need_cmd()  { command -v "$1" >/dev/null 2>&1 || missing+=("$2"); }
need_file() { [ -e "$1" ] || missing+=("$2"); }
report_missing() {
  [ ${#missing[@]} -eq 0 ] && return 0
  fail "missing; try: apt-get install --no-install-recommends $(printf '%s\n' "${missing[@]}" | sort -u | tr '\n' ' ')"
}

# --- work folder -------------------------------------------------------------
if [ -n "${LOWBIT_EMU_DIR:-}" ]; then
  mkdir -p "$LOWBIT_EMU_DIR"
  dir=$(cd "$LOWBIT_EMU_DIR" && pwd)
  keep=1
else
  dir=$(mktemp -d "${TMPDIR:-/tmp}/lowbit-emu.XXXXXX")
  keep=0
fi
run=  emu_pid=  tail_pid=
cleanup() {
  # "timeout" leads a process group of its own: itself and Bochs.  Bochs may
  # ignore SIGTERM, hence SIGKILL.
  [ -z "$emu_pid" ]  || kill -KILL -- "-$emu_pid" 2>/dev/null || true
  [ -z "$tail_pid" ] || kill "$tail_pid" 2>/dev/null || true
  [ -z "$run" ] || [ -n "${LOWBIT_EMU_KEEP_RUN:-}" ] || rm -rf "$run"
  [ "$keep" = 1 ] || rm -rf "$dir"
}
trap cleanup EXIT
trap 'exit 130' INT
trap 'exit 143' TERM HUP

# --- optional: compile Bochs -------------------------------------------------
# Debian 12's Bochs 2.7 has no BF16 or FP16, has a wrong vcvtps2ph, and is slow
# (built with the debugger).  Bochs 3.0, Debian 13's, compiled without the
# debugger is right, has both, and boots in 3 to 4 s instead of 12.
if [ "$1" = --build-bochs ]; then
  [ "$keep" = 1 ] || fail "--build-bochs needs LOWBIT_EMU_DIR"
  need_cmd g++ g++; need_cmd make make; need_cmd xz xz-utils
  report_missing
  mkdir -p "$dir/bochs-src"
  tar=${2:-}
  if [ -z "$tar" ]; then
    # Debian 13's source package, by an apt set-up of its own inside the work
    # folder: the system's sources stay as they are, and apt checks signatures.
    # (apt-get may report a .dsc that some mirrors lack; only the tar is used.)
    keyring=/usr/share/keyrings/debian-archive-keyring.gpg
    need_file "$keyring" debian-archive-keyring; report_missing
    mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial"
    # from the mirror that this system uses
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | sort -u | head -n 1)
    [ -n "$mirror" ] || fail "apt knows no mirror (run apt-get update), or give the tarball as argument"
    echo "deb-src [signed-by=$keyring] $mirror trixie main" >"$dir/apt/sources.list"
    apt=(apt-get -qq -o "Dir::Etc::sourcelist=$dir/apt/sources.list" -o Dir::Etc::sourceparts=-
      -o "Dir::State::lists=$dir/apt/lists" -o "Dir::Cache=$dir/apt/cache")
    "${apt[@]}" update >&2 || fail "apt-get update failed"
    (cd "$dir/apt" && "${apt[@]}" source --download-only bochs >&2) || true
    tar=$(find "$dir/apt" -maxdepth 1 -name 'bochs_*.orig.tar.*' | head -n 1)
    [ -n "$tar" ] || fail "cannot download bochs_*.orig.tar.xz; give it as argument"
  fi
  tar -xf "$tar" -C "$dir/bochs-src" --strip-components=1
  cd "$dir/bochs-src"
  CFLAGS=-O2 CXXFLAGS=-O2 ./configure --with-nogui --disable-plugins --disable-debugger --disable-docbook \
    --enable-cpu-level=6 --enable-x86-64 --enable-fpu --enable-avx --enable-evex --enable-amx \
    --enable-protection-keys --enable-all-optimizations --enable-pci --enable-cdrom >configure.log 2>&1 ||
    fail "configure failed, see $PWD/configure.log"
  make -j"$(nproc)" bochs >make.log 2>&1 || fail "make failed, see $PWD/make.log"
  mkdir -p "$dir/bochs"
  strip -o "$dir/bochs/bochs" bochs
  cd "$dir"
  rm -rf "$dir/bochs-src" "$dir/apt"
  echo "emulate-avx512: built $dir/bochs/bochs" >&2
  exit 0
fi

prog=$1
shift
limit=${LOWBIT_EMU_TIMEOUT:-1800}
ram=${LOWBIT_EMU_RAM:-512}
[[ $limit =~ ^[0-9]+$ ]] || fail "LOWBIT_EMU_TIMEOUT is not a number of seconds: $limit"
[[ $ram =~ ^[0-9]+$ ]] && [ "$ram" -ge 128 ] || fail "LOWBIT_EMU_RAM is not a number of MiB, 128 or more: $ram"
[ -f "$prog" ] && [ -x "$prog" ] || fail "no such executable: $prog"
# (a static executable has no PT_INTERP; the kernel would fail to find ld.so)
if command -v readelf >/dev/null 2>&1; then
  grep -q 'X86-64' <<<"$(readelf -h "$prog" 2>/dev/null || true)" || fail "not an x86-64 ELF executable: $prog"
  if grep -q INTERP <<<"$(readelf -lW "$prog")"; then fail "dynamically linked; link with -static: $prog"; fi
fi

isolinux=/usr/lib/ISOLINUX/isolinux.bin
ldlinux=/usr/lib/syslinux/modules/bios/ldlinux.c32
bios=/usr/share/bochs/BIOS-bochs-latest
vgabios=/usr/share/vgabios/vgabios.bin
bochs=${LOWBIT_EMU_BOCHS:-}
if [ -z "$bochs" ] && [ -x "$dir/bochs/bochs" ]; then bochs=$dir/bochs/bochs; fi
if [ -z "$bochs" ]; then
  # the package's "bochs" is a wrapper around bochs-bin
  need_cmd bochs-bin bochs
  need_file /usr/share/doc/bochs-term bochs-term
  bochs=bochs-bin
else
  command -v "$bochs" >/dev/null 2>&1 || fail "no such program: $bochs"
fi
need_file "$isolinux" isolinux
need_file "$ldlinux" syslinux-common
need_file "$bios" bochsbios
need_file "$vgabios" vgabios
need_cmd xorriso xorriso
need_cmd cpio cpio
need_cmd gcc gcc
need_file /usr/lib/x86_64-linux-gnu/libc.a libc6-dev
need_cmd dpkg-deb dpkg
need_cmd timeout coreutils
report_missing

# --- kernel ------------------------------------------------------------------
# -> $dir/vmlinuz
kernel=${LOWBIT_EMU_KERNEL:-}
if [ -z "$kernel" ] && [ ! -s "$dir/vmlinuz" ]; then
  # the metapackage depends on the package of the current version
  package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
    sed -n 's/^ *Depends: *\(linux-image-[0-9][^ ]*\).*/\1/p' | head -n 1)
  [ -n "$package" ] || fail "apt knows no linux-image-cloud-amd64 (run apt-get update), or set LOWBIT_EMU_KERNEL"
  mkdir -p "$dir/deb"
  (cd "$dir/deb" && apt-get -qq download "$package" >&2) || fail "apt-get download $package failed"
  kernel=$(ls "$dir"/deb/"$package"_*.deb)
fi
case $kernel in
  '') ;;
  *.deb)
    # only boot/vmlinuz-*, nothing is installed
    dpkg-deb --fsys-tarfile "$kernel" | tar -x -O --wildcards './boot/vmlinuz-*' >"$dir/vmlinuz.new" ||
      fail "no boot/vmlinuz-* in $kernel"
    mv "$dir/vmlinuz.new" "$dir/vmlinuz"
    rm -rf "$dir/deb"
    ;;
  *) [ "$kernel" -ef "$dir/vmlinuz" ] || cp "$kernel" "$dir/vmlinuz" ;;
esac

# --- initramfs ---------------------------------------------------------------
run=$(mktemp -d "$dir/run.XXXXXX")
mkdir -p "$run/root/work" "$run/iso"

cat >"$run/init.c" <<'EOC'
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Bochs appends a byte to the port's file when the strobe line goes on. */
static void put(int port, const char *b, size_t n) {
  for (size_t i = 0; i < n; i++) {
    outb((unsigned char)b[i], port);
    outb(0x0d, port + 2);
    outb(0x0c, port + 2);
  }
}
static void say(const char *s) { put(0x278, s, strlen(s)); }
static void stop(void) {
  for (const char *s = "Shutdown"; *s; s++) outb(*s, 0x8900);
  reboot(RB_POWER_OFF);
  for (;;) pause();
}
/* A file of NUL-terminated strings -> a NULL-terminated array. */
static char **strings(const char *path) {
  static char *none[] = {0};
  struct stat st;
  int fd = open(path, O_RDONLY);
  if (fd < 0 || fstat(fd, &st) != 0) return none;
  char *b = malloc(st.st_size + 1);
  ssize_t n = read(fd, b, st.st_size), count = 0;
  for (ssize_t i = 0; i < n; i++) count += b[i] == 0;
  char **v = calloc(count + 1, sizeof *v), *p = b;
  for (ssize_t i = 0; i < count; i++, p += strlen(p) + 1) v[i] = p;
  close(fd);
  return v;
}
int main(void) {
  static char b[65536];
  int status, out[2];
  ssize_t n;
  if (iopl(3) != 0) reboot(RB_POWER_OFF);
  say("boot\n");
  mkdir("/proc", 0755), mount("proc", "/proc", "proc", 0, 0);
  mkdir("/sys", 0755), mount("sysfs", "/sys", "sysfs", 0, 0);
  mkdir("/dev", 0755), mount("devtmpfs", "/dev", "devtmpfs", 0, 0);
  mkdir("/tmp", 01777);
  char **args = strings("/args"), **env = strings("/env");
  if (pipe(out) != 0 || chdir("/work") != 0) say("error setup\n"), stop();
  pid_t child = fork();
  if (child == 0) {
    iopl(0);
    dup2(open("/dev/null", O_RDONLY), 0);
    dup2(out[1], 1);
    dup2(out[1], 2);
    for (int fd = 3; fd < 20; fd++) close(fd);
    execve("/prog", args, env);
    fprintf(stderr, "execve: %s\n", strerror(errno));
    _exit(127);
  }
  close(out[1]);
  while ((n = read(out[0], b, sizeof b)) > 0 || (n < 0 && errno == EINTR))
    if (n > 0) put(0x378, b, n);
  while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  if (WIFSIGNALED(status)) sprintf(b, "signal %d\n", WTERMSIG(status));
  else sprintf(b, "exit %d\n", WEXITSTATUS(status));
  say(b);
  stop();
}
EOC
gcc -O1 -static -o "$run/root/init" "$run/init.c" || fail "cannot compile the guest's init"
cp "$prog" "$run/root/prog"
chmod 755 "$run/root/prog"
printf '%s\0' "$(basename "$prog")" "$@" >"$run/root/args"
{
  printf '%s\0' HOME=/work PATH=/ TMPDIR=/tmp
  for name in ${LOWBIT_EMU_ENV:-}; do
    [ -z "${!name+x}" ] || printf '%s\0' "$name=${!name}"
  done
} >"$run/root/env"
[ -z "${LOWBIT_EMU_FILES:-}" ] || cp -rL "$LOWBIT_EMU_FILES"/. "$run/root/work/"
(cd "$run/root" && find . | cpio --quiet -o -H newc -R 0:0) >"$run/iso/initrd"

# --- CPU model ---------------------------------------------------------------
models=$("$bochs" -help cpu </dev/null 2>&1 || true)
has_model() { grep -qx "$1" <<<"$models"; }
model=${LOWBIT_EMU_CPU:-}
if [ -z "$model" ]; then
  if has_model sapphire_rapids; then model=sapphire_rapids; else model=corei7_icelake_u; fi
fi
has_model "$model" || fail "this Bochs has no CPU model $model (or lacks AVX-512): $bochs -help cpu"
cpu_extra=
# What the kernel must not use:
#  fsrm   Bochs has no IA32_MISC_ENABLE.FAST_STRING, so Linux clears ERMS but
#         not FSRM, and its memmove, which takes FSRM to imply ERMS, then
#         corrupts memory (the boot hangs in a page fault loop).
#  la57   (no5lvl) Bochs cannot return from system management mode, which Linux
#         enters once to switch on ACPI, to five-level paging.
#  the rest: Bochs 2.7's CPUID leaf 0xD is wrong for PKRU and for XSAVEC/XSAVES
#         (compacted) sizes; the kernel then uses plain XSAVE.  CPUID in
#         user space is not changed by these.
kernel_args="no5lvl clearcpuid=fsrm"
if has_model sapphire_rapids; then
  # Bochs 3: only AMX needs care (Linux 6.1 finds XCR0 with half of it set)
  [ "$model" != sapphire_rapids ] || cpu_extra=', exclude_features="amx,amx_bf16,amx_int8"'
else
  kernel_args+=",pku,ospke,xsavec,xsaves"
fi
# fast boot, no waiting; on a panic reboot by triple fault, which ends Bochs
kernel_args+=" quiet console=ttyS0 nokaslr nosmp mitigations=off tsc=reliable lpj=1000000"
kernel_args+=" cryptomgr.notests panic=-1 reboot=t"

# --- boot medium -------------------------------------------------------------
cp "$dir/vmlinuz" "$run/iso/vmlinuz"
cp "$isolinux" "$ldlinux" "$run/iso/"
cat >"$run/iso/isolinux.cfg" <<EOC
DEFAULT linux
PROMPT 0
LABEL linux
 KERNEL /vmlinuz
 INITRD /initrd
 APPEND $kernel_args
EOC
xorriso -as mkisofs -quiet -o "$run/boot.iso" -b isolinux.bin -c boot.cat \
  -no-emul-boot -boot-load-size 4 -boot-info-table "$run/iso" >"$run/xorriso.log" 2>&1 ||
  { cat "$run/xorriso.log" >&2; fail "xorriso failed"; }

# --- Bochs -------------------------------------------------------------------
help=$("$bochs" --help </dev/null 2>&1 || true)
# A build with the debugger starts in it and needs the command "c" (continue).
bochs_args=(-q -f bochsrc)
if grep -q '^  -rc ' <<<"$help"; then
  echo c >"$run/debugger.rc"
  bochs_args+=(-rc debugger.rc)
fi
# The package has "term" (curses; here it draws into a file), not "nogui".
case $bochs in
  *bochs-bin) display='term, options="hideIPS"' ;;
  *) display=nogui ;;
esac
cat >"$run/bochsrc" <<EOC
config_interface: textconfig
display_library: $display
cpu: model=$model, count=1, ips=50000000, reset_on_triple_fault=0, ignore_bad_msrs=1$cpu_extra
memory: guest=$ram, host=$((ram < 2048 ? ram : 2048))
romimage: file=$bios, options=fastboot
vgaromimage: file=$vgabios
pci: enabled=1, chipset=i440fx
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path=boot.iso, status=inserted
ata1: enabled=0
boot: cdrom
clock: sync=none, time0=utc
log: bochs.log
panic: action=fatal
error: action=report
info: action=report
debug: action=ignore
parport1: enabled=1, file=output
parport2: enabled=1, file=status
com1: enabled=1, mode=file, dev=console
speaker: enabled=0
EOC

version=$(sed -n 's/.*\(Bochs x86 Emulator [0-9.]*\).*/\1/p' <<<"$help")
echo "emulate-avx512: $version, CPU $model" >&2
case $version in
  *' 2.'*) echo "emulate-avx512: warning: Bochs 2.x rounds exact ties in vcvtps2ph (float to half) up instead of to even" >&2 ;;
esac
started=$SECONDS
: >"$run/output"; : >"$run/status"
(
  cd "$run"
  # "term" wants a terminal type; its screen goes to a file
  TERM=linux exec timeout -s KILL "$limit" "$bochs" "${bochs_args[@]}" </dev/null >screen 2>&1
) 2>/dev/null &
emu_pid=$!
tail -n +1 -s 0.2 --pid="$emu_pid" -f "$run/output" 2>/dev/null &
tail_pid=$!
emu_status=0
wait "$emu_pid" 2>/dev/null || emu_status=$?
emu_pid=
wait "$tail_pid" || true
tail_pid=

case $(tail -n 1 "$run/status") in
  exit\ *) code=$(sed -n 's/^exit //p' "$run/status") ;;
  signal\ *)
    signal=$(sed -n 's/^signal //p' "$run/status")
    echo "emulate-avx512: killed by signal $signal ($(kill -l "$signal"))" >&2
    code=$((128 + signal))
    ;;
  *)
    if [ "$emu_status" = 137 ] && [ $((SECONDS - started)) -ge "$limit" ]; then
      echo "emulate-avx512: time limit of $limit s passed" >&2
      code=124
    else
      echo "emulate-avx512: the emulator ended early (status $emu_status); guest console and Bochs log:" >&2
      { tail -n 25 "$run/console"; grep -a -e '>>PANIC<<' -e '^Bochs' "$run/bochs.log" "$run/screen"; } >&2 2>/dev/null || true
      code=125
    fi
    ;;
esac
echo "emulate-avx512: $((SECONDS - started)) s, status $code" >&2
exit "$code"
