// SPDX-License-Identifier: Apache-2.0
//
// moultctl vm: a VM for trial, from the images that guest-agent/rootfs makes.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "backend.h"
#include "commands.h"
#include "moult/base/status.h"
#include "output.h"
#include "process.h"
#include "progress.h"

namespace moult::ctl {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;
constexpr std::chrono::seconds kDeviceStarts{10};

struct Vm {
  VmArguments arguments;
  fs::path dir, kernel, image, library, agent, driver;
  std::string accel;
  std::optional<Child> device, qemu;
  std::streamoff console_start = 0;  // of this boot, in console()
  fs::path control() const { return dir / "control.sock"; }
  fs::path console() const { return dir / "console.log"; }
};

fs::path OwnFolder() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path();
}

absl::StatusOr<std::string> Rootfs(const std::string& script, const std::vector<std::string>& more = {},
                                   Progress* progress = nullptr) {
  const char* folder = getenv("MOULT_ROOTFS");
  const fs::path path = fs::path(folder != nullptr ? folder : MOULT_ROOTFS_DIR) / script;
  if (!fs::exists(path))
    return absl::NotFoundError(
        absl::StrCat(path.string(), ": is not there; set MOULT_ROOTFS to guest-agent/rootfs of the sources"));
  std::vector<std::string> argv{path};
  argv.insert(argv.end(), more.begin(), more.end());
  return Capture(argv, progress);
}

// That /dev/kvm can be opened says little; what counts is whether a stock kernel boots. Asked once a boot.
bool KvmBoots(const VmArguments& arguments, const fs::path& kernel, Progress* progress) {
  if (access("/dev/kvm", R_OK | W_OK) != 0) return false;
  std::string boot_id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> boot_id;
  const char* cache = getenv("MOULT_CACHE");
  const char* home = getenv("HOME");
  const fs::path known =
      fs::path(cache != nullptr ? cache : absl::StrCat(home != nullptr ? home : "/root", "/.cache/moult")) /
      ("kvm-probe-" + boot_id);
  std::string answer;
  if (std::ifstream(known) >> answer) return answer == "yes";
  // With no root disk a kernel that comes so far panics, which ends QEMU.
  const absl::StatusOr<std::string> console = Capture({"timeout",
                                                       "--preserve-status",
                                                       "30",
                                                       arguments.qemu,
                                                       "-M",
                                                       "q35,accel=kvm",
                                                       "-cpu",
                                                       "host",
                                                       "-m",
                                                       "256",
                                                       "-nodefaults",
                                                       "-no-user-config",
                                                       "-display",
                                                       "none",
                                                       "-no-reboot",
                                                       "-kernel",
                                                       kernel / "vmlinuz",
                                                       "-append",
                                                       "console=ttyS0 panic=-1",
                                                       "-serial",
                                                       "stdio"},
                                                      progress);
  const bool boots = console.ok() && console->find("Unable to mount root fs") != std::string::npos;
  std::ofstream(known) << (boots ? "yes" : "no");
  return boots;
}

absl::Status MakePayload(const Vm& vm) {
  const fs::path tree = vm.dir / "payload";
  std::vector<std::pair<std::string, fs::path>> files{{"respawn.d/moult-agent", vm.agent}};
  if (!vm.driver.empty()) files.emplace_back("modules/moult.ko", vm.driver / "moult.ko");
  for (const std::string& entry : vm.arguments.payload) {
    const std::vector<std::string> parts = absl::StrSplit(entry, absl::MaxSplits('=', 1));
    if (parts.size() != 2)
      return absl::InvalidArgumentError(absl::StrCat("--payload ", entry, ": must be NAME=FILE"));
    files.emplace_back(parts[0], parts[1]);
  }
  for (const auto& [name, source] : files) {
    std::error_code error;
    fs::create_directories((tree / name).parent_path(), error);
    fs::copy_file(source, tree / name, fs::copy_options::overwrite_existing, error);
    if (error) return ErrnoStatus(error.value(), absl::StrCat("payload ", name, ": copy ", source.string()));
    chmod((tree / name).c_str(), 0755);
  }
  return Capture({"tar", "-cf", vm.dir / "payload.tar", "-C", tree, "."}).status();
}

absl::Status Prepare(Vm* vm, Progress* progress) {
  const VmArguments& arguments = vm->arguments;
  absl::string_view pool = arguments.pool;
  absl::ConsumePrefix(&pool, "file:");
  if (!pool.empty() && !absl::StartsWith(pool, "rdma:") && !fs::is_directory(std::string(pool)))
    return absl::NotFoundError(absl::StrCat("--pool ", pool, ": is no folder; make it first"));
  vm->library = OwnFolder().parent_path() / "lib" / "libmoult-qemu.so";
  // In a build folder it is beside us, installed it is among the daemons.
  vm->agent = arguments.agent;
  if (arguments.agent.empty()) {
    vm->agent = OwnFolder() / "moult-agent";
    if (!fs::exists(vm->agent)) vm->agent = OwnFolder().parent_path() / "sbin" / "moult-agent";
  }
  if (!fs::exists(vm->library))
    return absl::NotFoundError(absl::StrCat(vm->library.string(), ": is not there; build the tree, or install host-tools"));
  if (!fs::exists(vm->agent))
    return absl::NotFoundError(absl::StrCat(vm->agent.string(), ": is not there; name the agent with --agent-binary, build the tree, or install guest-agent"));
  MOULT_ASSIGN_OR_RETURN(vm->kernel, Rootfs("kernel", {arguments.kernel}, progress));
  progress->Becomes("vm: the guest's image");
  MOULT_ASSIGN_OR_RETURN(vm->image, Rootfs("build", {}, progress));
  if (arguments.window_mb > 0) {
    progress->Becomes("vm: the guest's driver");
    absl::StatusOr<std::string> driver = Rootfs("driver", {arguments.kernel}, progress);
    if (!driver.ok())
      return Annotate(driver.status(), "the guest's driver (--window 0 starts a VM without it)");
    vm->driver = *std::move(driver);
  }
  progress->Becomes("vm: does KVM boot a kernel here");
  vm->accel = !arguments.accel.empty()                    ? arguments.accel
              : KvmBoots(arguments, vm->kernel, progress) ? "kvm"
                                                          : "tcg";
  return MakePayload(*vm);
}

// The kernel has no event for listen(), and the device says nothing when it is ready.
absl::Status WaitForListener(const Child& device, const std::string& path) {
  const auto deadline = Clock::now() + kDeviceStarts;
  while (Clock::now() < deadline) {
    std::ifstream sockets("/proc/net/unix");
    for (std::string line; std::getline(sockets, line);) {
      if (line.size() > path.size() && line.ends_with(" " + path) &&
          line.find(" 00010000 ") != std::string::npos)
        return absl::OkStatus();
    }
    if (device.ended()) return absl::FailedPreconditionError("the vsock device ended at once; see vsock.log");
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  return absl::DeadlineExceededError("the vsock device does not listen; see vsock.log");
}

// QEMU's arguments for the vsock, and the adapter's setting that goes with them.
absl::Status AddVsock(Vm* vm, std::vector<std::string>* argv, std::string* setting) {
  const std::string cid = std::to_string(3 + static_cast<unsigned>(getpid()) % 0x7fff0000u);
  if (access("/dev/vhost-vsock", R_OK | W_OK) == 0) {
    argv->insert(argv->end(), {"-device", "vhost-vsock-pci,guest-cid=" + cid});
    *setting = "vsock=vsock:" + cid;
    return absl::OkStatus();
  }
  MOULT_ASSIGN_OR_RETURN(const std::string program, Rootfs("vsock-device"));
  const std::string back = vm->dir / "vhost.sock", front = vm->dir / "vsock.sock";
  MOULT_ASSIGN_OR_RETURN(
      Child device, Child::Start({program, "--guest-cid", cid, "--socket", back, "--uds-path", front}, {},
                                 vm->dir / "vsock.log"));
  vm->device.emplace(std::move(device));
  MOULT_RETURN_IF_ERROR(WaitForListener(*vm->device, back));
  argv->insert(argv->end(),
               {"-chardev", "socket,id=vsock,path=" + back, "-device", "vhost-user-vsock-pci,chardev=vsock"});
  *setting = "vsock=uds:" + absl::StrReplaceAll(front, {{",", ",,"}});
  return absl::OkStatus();
}

bool IsPmem(const VmArguments& arguments) { return arguments.window_mb > 0 && arguments.window_device == "virtio-pmem"; }

absl::Status StartQemu(Vm* vm) {
  const VmArguments& a = vm->arguments;
  const std::string ram = absl::StrCat("size=", a.memory_mb, "M");
  std::error_code none;
  const uintmax_t before = fs::file_size(vm->console(), none);
  vm->console_start = none ? 0 : static_cast<std::streamoff>(before);
  const std::string console = absl::StrReplaceAll(vm->console().string(), {{",", ",,"}});
  std::vector<std::string> argv{
      a.qemu, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-M",
      absl::StrCat("q35,accel=", vm->accel, ",memory-backend=ram"),
      // Under emulation zeroing by `rep stosb` takes twice the time, and QEMU 7.2's cmpxchg16b is not safe
      // with 6.12.
      "-cpu", !a.cpu.empty() ? a.cpu : vm->accel == "kvm" ? "host" : "max,-erms,-fsrm,-cx16", "-smp", std::to_string(a.cpus), "-object", "memory-backend-memfd,id=ram,share=on," + ram, "-kernel",
      vm->kernel / "vmlinuz", "-append",
      // A guest that is emulated on a busy host may wait for so long for its timer that it takes it for broken, and panics.
      absl::StrCat("console=ttyS0 quiet root=/dev/nvme0n1 rw init=/sbin/moult-init panic=-1 reboot=t no_timer_check "
                   "moult.payload=/dev/vda ",
                   IsPmem(a) ? "moult.driver=pci=0,virtio_pmem=1 " : "", a.append),
      "-drive", absl::StrCat("file=", vm->image.string(), ",format=raw,if=none,id=root,snapshot=on"),
      "-drive",
      absl::StrCat("file=", (vm->dir / "payload.tar").string(), ",format=raw,if=none,id=payload,readonly=on"),
      "-device", "nvme,drive=root,serial=moult", "-device", "virtio-blk-pci,drive=payload", "-chardev",
      absl::StrCat("file,id=serial,append=on,path=",
                   // Who wants JSON may stop to read after it; a full pipe would stop the guest.
                   a.json ? console : "/proc/self/fd/1,logappend=on,logfile=" + console),
      "-serial", "chardev:serial", "-qmp",
      absl::StrCat("unix:", (vm->dir / "qmp.sock").string(), ",server=on,wait=off")};
  if (a.window_mb > 0) {
    argv.insert(argv.end(),
                {"-object", absl::StrCat("memory-backend-ram,id=window,reserve=off,size=", a.window_mb, "M"),
                 "-device", absl::StrCat(IsPmem(a) ? "virtio-pmem-pci" : "ivshmem-plain", ",memdev=window")});
  }
  // Beside RAM such a device needs room for memory that could be plugged in.
  argv.insert(argv.end(), {"-m", IsPmem(a) ? absl::StrCat(a.memory_mb, ",slots=1,maxmem=", a.memory_mb + 2 * a.window_mb, "M")
                                           : absl::StrCat(a.memory_mb)});
  std::string vsock;
  MOULT_RETURN_IF_ERROR(AddVsock(vm, &argv, &vsock));
  const std::string store =
      a.store.empty() ? (vm->dir / "templates").string() : fs::absolute(a.store).string();
  std::string settings =
      absl::StrCat("control=", absl::StrReplaceAll(vm->control().string(), {{",", ",,"}}), ",ram=ram,", vsock,
                   ",store=", absl::StrReplaceAll(store, {{",", ",,"}}),
                   ",tenant=", absl::StrReplaceAll(a.tenant, {{",", ",,"}}));
  absl::string_view folder = a.pool;
  absl::ConsumePrefix(&folder, "file:");
  const std::string pool = absl::StartsWith(a.pool, "rdma:") ? a.pool
                           : "file:" + (folder.empty() ? vm->dir : fs::absolute(std::string(folder))).string();
  absl::StrAppend(&settings, ",pool=", absl::StrReplaceAll(pool, {{",", ",,"}}), ",pool_mib=", a.pool_mib);
  if (a.window_mb > 0) settings += ",window=window";
  for (const std::string& setting : a.settings) absl::StrAppend(&settings, ",", absl::StrReplaceAll(setting, {{",", ",,"}}));
  const std::vector<std::string> env{"LD_PRELOAD=" + vm->library.string(), "MOULT_QEMU=" + settings,
                                     "TMPDIR=" + vm->dir.string()};
  MOULT_ASSIGN_OR_RETURN(Child qemu, Child::Start(argv, env, ""));
  vm->qemu.emplace(std::move(qemu));
  return absl::OkStatus();
}

bool AgentSaysItIsReady(const Vm& vm) {
  std::ifstream console(vm.console());
  console.seekg(vm.console_start);
  for (std::string line; std::getline(console, line);) {
    if (line.find("moult-agent: ready") != std::string::npos) return true;
  }
  return false;
}

// The agent is asked until it answers. From the host that costs the guest little, and only while it boots.
absl::Status WaitForAgent(const Vm& vm, int signals, Progress* progress) {
  const std::chrono::milliseconds timeout(vm.arguments.timeout_ms);
  const auto deadline = Clock::now() + timeout;
  // vhost-device-vsock can stop for good at a connection that comes while the guest's driver starts. An agent
  // that does not say on the console that it is ready is asked in the end.
  const auto asked = vm.device ? Clock::now() + timeout * 2 / 3 : Clock::time_point::min();
  absl::Status last;
  while (Clock::now() < deadline) {
    // The guest's console is progress enough, and on the same terminal.
    if (vm.arguments.json) progress->Tick();
    pollfd waits[] = {{vm.qemu->pidfd(), POLLIN, 0}, {signals, POLLIN, 0}};
    if (poll(waits, 2, 100) > 0) {
      return waits[1].revents != 0 ? absl::CancelledError("vm: interrupted")
                                   : absl::FailedPreconditionError(
                                         absl::StrCat("QEMU ended; what it said is ",
                                                      vm.arguments.detach ? "in " + (vm.dir / "vm.log").string() : "above"));
    }
    if (Clock::now() < asked && !AgentSaysItIsReady(vm)) continue;
    absl::StatusOr<std::unique_ptr<Backend>> backend =
        Open({.control = vm.control(), .agent = "", .store = "", .tenant = ""});
    last = backend.status();
    const bool connected = last.ok();
    if (connected) last = (*backend)->Call("hello", {{"timeout_ms", 5000}}).status();
    if (last.ok()) return last;
    // Only these pass as the guest boots: the control socket is not there yet, or the agent.
    const bool passes = absl::IsUnavailable(last) || absl::IsDeadlineExceeded(last) || absl::IsAborted(last);
    if (!passes && (connected || !absl::IsNotFound(last))) return last;
  }
  return absl::DeadlineExceededError(absl::StrCat("vm: the agent does not answer: ", last.message()));
}

// One VM a folder: another would take its sockets. Held as long as the descriptor is open, whatever ends the process; our
// number is in it for who wants to end the VM.
absl::StatusOr<UniqueFd> LockFolder(const fs::path& folder) {
  const std::string path = folder / "vm.pid";
  UniqueFd fd(open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("vm: open ", path));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) != 0) {
    std::string pid;
    std::ifstream(path) >> pid;
    return absl::FailedPreconditionError(absl::StrCat("vm: folder ", folder.string(), " is that of a VM that runs",
                                                      pid.empty() ? "" : absl::StrCat(" (process ", pid, ")"), "; give another --dir, or end that one"));
  }
  const std::string pid = absl::StrCat(getpid(), "\n");
  if (ftruncate(fd.get(), 0) != 0 || write(fd.get(), pid.data(), pid.size()) != static_cast<ssize_t>(pid.size()))
    return ErrnoStatus(absl::StrCat("vm: write ", path));
  return fd;
}

// Tells `ready` the outcome, then stays until QEMU has ended or we are told to go. An error that comes before
// goes to `errors`.
int Supervise(const VmArguments& arguments, int ready, int errors) {
  const absl::StatusOr<UniqueFd> ours = LockFolder(arguments.dir);
  if (!ours.ok()) {
    dup2(errors, STDERR_FILENO);
    return Fail(ours.status(), arguments.json);
  }
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, number);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  const UniqueFd signals(signalfd(-1, &set, SFD_CLOEXEC));
  Vm vm{.arguments = arguments,
        .dir = arguments.dir,
        .kernel = {},
        .image = {},
        .library = {},
        .agent = {},
        .driver = {},
        .accel = {},
        .device = {},
        .qemu = {},
        .console_start = 0};
  Progress progress("vm: the guest's kernel");
  absl::Status status = Prepare(&vm, &progress);
  progress.Becomes("vm: the guest boots");
  if (!arguments.json) progress.Wipe();
  if (status.ok()) status = StartQemu(&vm);
  if (status.ok()) status = WaitForAgent(vm, signals.get(), &progress);
  progress.Wipe();
  if (!status.ok()) {
    dup2(errors, STDERR_FILENO);
    return Fail(Annotate(status, absl::StrCat("vm in ", vm.dir.string())), arguments.json);
  }
  const Json told{{"control", vm.control().string()},
                  {"dir", vm.dir.string()},
                  {"accel", vm.accel},
                  {"pid", vm.qemu->pid()}};
  dprintf(ready, "%s\n", arguments.json ? Dump(told).c_str() : vm.control().c_str());
  if (ready != STDOUT_FILENO) {
    close(ready);
    close(errors);
  }
  pollfd waits[] = {{vm.qemu->pidfd(), POLLIN, 0}, {signals.get(), POLLIN, 0}};
  while (poll(waits, 2, -1) < 0) continue;
  vm.qemu->Terminate();
  waits[0].revents = 0;
  poll(waits, 1, 5000);  // then it is killed
  return 0;
}

// Shows progress meanwhile.
std::string ReadToEnd(UniqueFd fd) {
  Progress progress("vm");
  std::string text;
  char chunk[512];
  for (ssize_t got = 1; got > 0;) {
    pollfd wait{fd.get(), POLLIN, 0};
    if (poll(&wait, 1, Progress::kEveryMs) == 0) {
      progress.Tick();
      continue;
    }
    got = read(fd.get(), chunk, sizeof(chunk));
    if (got > 0) text.append(chunk, static_cast<size_t>(got));
  }
  return text;
}

// A session of its own for the supervisor; we pass on what it says when the VM is ready.
int Detach(const VmArguments& arguments) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) != 0) return Fail(ErrnoStatus("pipe2"), arguments.json);
  const pid_t pid = fork();
  if (pid < 0) return Fail(ErrnoStatus("fork"), arguments.json);
  if (pid == 0) {
    setsid();
    const UniqueFd log(
        open((fs::path(arguments.dir) / "vm.log").c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0600));
    dup2(log.get(), STDIN_FILENO);
    dup2(log.get(), STDOUT_FILENO);
    // Whoever reads our caller's pipes must see their end, though QEMU and this process stay.
    const int errors = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, 3);
    dup2(log.get(), STDERR_FILENO);
    const int code = Supervise(arguments, ends[1], errors);
    _exit(code);
  }
  close(ends[1]);
  const std::string text = ReadToEnd(UniqueFd(ends[0]));
  if (!text.empty()) {
    std::fputs(text.c_str(), stdout);
    return 0;
  }
  int status = 0;
  waitpid(pid, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

}  // namespace

int RunVm(const VmArguments& given) {
  VmArguments arguments = given;
  if (arguments.dir.empty()) {
    std::string name = (fs::temp_directory_path() / "moult-vm-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) return Fail(ErrnoStatus("mkdtemp " + name), arguments.json);
    arguments.dir = name;
  }
  std::error_code error;
  fs::create_directories(arguments.dir, error);
  if (error) return Fail(ErrnoStatus(error.value(), "make " + arguments.dir), arguments.json);
  arguments.dir = fs::absolute(arguments.dir);
  return arguments.detach ? Detach(arguments) : Supervise(arguments, STDOUT_FILENO, STDERR_FILENO);
}

}  // namespace moult::ctl
