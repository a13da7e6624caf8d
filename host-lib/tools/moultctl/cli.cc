// SPDX-License-Identifier: Apache-2.0
#include "cli.h"

#include <bit>
#include <climits>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "completion.h"
#include "moult/moult.h"
#include "output.h"

namespace moult::ctl {

Cli::Cli()
    : app_("Swaps the function in a running microVM: captures functions as templates, and repurposes VMs.",
           "moultctl") {
  app_.set_version_flag("--version", moult_version());
  app_.require_subcommand(1);
  app_.footer(
      std::string(
          "A first round, with a VM for trial:\n"
          "  export MOULT_CONTROL=$(moultctl vm --detach)\n"
          "  moultctl run --name web --endpoint tcp:8080 --ready http:/ -- python3 -m http.server 8080\n"
          "  moultctl invoke web /\n"
          "  moultctl capture web web-template\n"
          "  moultctl repurpose web web-template\n\n") +
      kExitCodes);
  app_.add_option("--control", arguments_.where.control,
                  "control socket of the VM's process; by default what MOULT_CONTROL says");
  app_.add_option("--agent", arguments_.where.agent,
                  "straight to the agent, without guest memory: vsock:CID[:PORT], uds:PATH[:PORT] (says "
                  "CONNECT), unix:PATH");
  app_.add_option("--store", arguments_.where.store, "folder of templates, with --agent and pool");
  app_.add_option("--tenant", arguments_.where.tenant, "trust domain of the VM, with --agent and pool");
  app_.add_flag("--json", arguments_.json, "print results and errors as JSON");
  // Options of ours are understood after the command as well.
  app_.fallthrough();
  AddVm();
  AddQuestions();
  AddLedger();
  AddRun();
  AddInvoke();
  AddSwaps();
  AddTemplates();
  AddPools();
  AddCompletion();
}

CLI::App* Cli::Add(CLI::App& parent, const char* name, const char* about, const char* example,
                   Command command) {
  CLI::App* added = parent.add_subcommand(name, about);
  if (example != nullptr) added->footer(std::string("Example:\n  ") + example);
  if (command != nullptr) added->callback([this, command] { command_ = command; });
  return added;
}

void Cli::AddFunction(CLI::App* command) {
  command->add_option("FUNCTION", arguments_.function, "its id, or its name when only one has it")
      ->required();
}
void Cli::AddTemplate(CLI::App* command) {
  command->add_option("NAME", arguments_.name, "the template")->required();
}
void Cli::AddPages(CLI::App* command) {
  command
      ->add_option("--pages", arguments_.pages,
                   "how page content travels: in_place (guest RAM, window), copy (vsock)")
      ->check(CLI::IsMember({"auto", "in_place", "copy"}))
      ->capture_default_str();
}

void Cli::AddFrom(CLI::App* command) {
  command->add_option(
      "--from", arguments_.from,
      "pool that has the template, which stays there: file:/PATH or rdma://HOST[:PORT]/, whose pages come as "
      "they are touched, or dax:/PATH, whose pages are mapped from there");
  command->add_option("--digest", arguments_.digest, "with --from: refuse a template whose manifest has another");
}

void Cli::AddQuestions() {
  Add(app_, "hello", "Versions, features and windows of the guest's agent", "moultctl hello --json",
      RunHello);
  Add(app_, "doctor", "Tell what is wrong in guest or VM, and the remedy; exit 3 when something is",
      "moultctl doctor", RunDoctor);
  Add(app_, "status", "What the VM's process knows: memory map, windows, calls under way and ended",
      "moultctl status", RunStatus);
  Add(app_, "metrics", "The numbers of status as OpenMetrics text, for a collector", "moultctl metrics",
      RunMetrics);
  Add(app_, "ps", "List the functions",
      "moultctl ps\n\n"
      "MEMORY is all that the guest's kernel counts for it, USER anonymous and shared memory; both, be it in RAM or out.\n"
      "OFFLOADED is out. SHOWN is how much of its TEMPLATE it was given to see, whatever it has written since.",
      RunPs);
  AddFunction(Add(app_, "freeze", "Stop a function where it is", "moultctl freeze web", RunFreeze));
  AddFunction(Add(app_, "thaw", "Let a frozen function run on", "moultctl thaw web", RunThaw));
  AddFunction(Add(app_, "kill", "End a function; its pages go to the guest's kernel as they are",
                  "moultctl kill web", RunKill));
  AddFunction(
      Add(app_, "forget", "Drop what is known of a function that has ended", "moultctl forget 3", RunForget));
  CLI::App* logs = Add(app_, "logs", "Print a function's output", "moultctl logs -f web", RunLogs);
  AddFunction(logs);
  logs->add_flag("-f,--follow", arguments_.follow, "go on with what comes");
  logs->add_option("--tail", arguments_.tail_bytes, "at most this many bytes of what is there already");
}

void Cli::AddRun() {
  CLI::App* run =
      Add(app_, "run", "Start a function in the guest; returns when it is ready",
          "moultctl run --name web --endpoint tcp:8080 --ready http:/ --memory 256M -- python3 -m "
          "http.server 8080\n"
          "  moultctl run spec.json      (the same as a file: {\"name\": \"web\", \"argv\": [...], ...})",
          RunRun);
  RunFlags& flags = arguments_.run;
  run->add_option("--name", flags.name, "1 to 64 of A-Z a-z 0-9 . _ -");
  // A list may take more words than one, and with them the `--` before the command: hence
  // allow_extra_args(false).
  run->add_option("--env", flags.env, "NAME=value; may be repeated")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  run->add_option("--cwd", flags.cwd, "working directory");
  run->add_option("--uid", flags.uid, "user");
  run->add_option("--gid", flags.gid, "group");
  run->add_option("--endpoint", flags.endpoint, "where it accepts connections: unix:/path or tcp:PORT");
  run->add_option("--ready", flags.ready, "when it is ready: started, connect, http:/path or line:TEXT");
  run->add_option("--runtime-up", flags.runtime_up,
                  "when its runtime is up: connect, http:/path or line:TEXT; what it holds then is its runtime segment");
  run->add_option("--ready-timeout", flags.ready_timeout_ms, "milliseconds");
  run->add_option("--memory", flags.memory, "limit: bytes, or with K, M, G");
  run->add_option("--cpu", flags.cpu, "limit: CPUs, like 0.5");
  run->add_option("--pids", flags.pids, "limit: processes and threads");
  run->add_option("--before-capture", flags.before_capture,
                  "http:/path or a shell command, before each capture");
  run->add_option("--after-attach", flags.after_attach,
                  "the same, before an attached function counts as ready");
  run->add_option("--policy", arguments_.policy, "what is done with it between requests; see moultctl policy");
  run->add_option("COMMAND", flags.words, "the command after --; or the file of a specification, - for stdin")
      ->required();
}

void Cli::AddInvoke() {
  invoke_command_ = Add(app_, "invoke", "Ask a function over HTTP, through its endpoint",
                        "moultctl invoke thumb --data @photo.jpg /thumbnail >small.jpg", nullptr);
  AddFunction(invoke_command_);
  invoke_command_->add_option("PATH", invoke_.path, "what to ask for")->capture_default_str();
  invoke_command_->add_option("-d,--data", invoke_.data,
                              "request body: text, @FILE, or @- for stdin; makes it a POST");
  invoke_command_->add_option("-X,--method", invoke_.method, "GET, PUT, ...");
  invoke_command_->add_option("-H,--header", invoke_.headers, "\"Name: value\"; may be repeated")
      ->check(CLI::Validator(
          [](std::string& text) {
            const size_t colon = text.find(':');
            return colon != std::string::npos && colon > 0 ? std::string() : text + ": must be \"Name: value\"";
          },
          "HEADER"))
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  invoke_command_->add_flag("-i,--include", invoke_.include, "print the answer's headers, too");
  invoke_command_->add_flag("--fail", invoke_.fail, "exit 1 when the answer's status is 400 or more");
  invoke_command_->add_option("--timeout", invoke_.timeout_ms, "milliseconds")
      ->capture_default_str()
      ->check(CLI::Range(1, INT_MAX));
}

void Cli::AddSwaps() {
  CLI::App* capture = Add(app_, "capture", "Make a template of a function, which runs on",
                          "moultctl capture web web-template", RunCapture);
  AddFunction(capture);
  AddTemplate(capture);
  capture->add_flag("--end", arguments_.end, "end the function once the template is durable");
  AddPages(capture);
  CLI::App* fork = Add(app_, "fork", "Put a running function's template into a pool, for other hosts; it runs on",
                       "moultctl fork web --to file:/mnt/templates\n"
                       "  moultctl attach web --from file:/mnt/templates       (on another host)", RunFork);
  AddFunction(fork);
  fork->add_option("--to", arguments_.to, "the pool: file:/PATH, dax:/PATH or rdma://HOST[:PORT][,HOST[:PORT]]/")->required();
  fork->add_option("--name", arguments_.name, "of the template there; by default the function's");
  fork->add_flag("--keep", arguments_.keep,
                 "leave it in the VM's store, too; else it is removed there, also when it did not get into the pool");
  AddPages(fork);
  CLI::App* attach =
      Add(app_, "attach", "Make a running function of a template", "moultctl attach web-template", RunAttach);
  AddTemplate(attach);
  AddPages(attach);
  AddFrom(attach);
  AddFunction(Add(app_, "detach", "End a function and give its pages back, so that nothing of it is left",
                  "moultctl detach web", RunDetach));
  CLI::App* offload =
      Add(app_, "offload", "Move an idle function's pages out of the guest; it stands still until recall",
          "moultctl offload web", RunOffload);
  AddFunction(offload);
  offload->add_flag("--cold-only", arguments_.cold_only, "only pages that it has not touched since it was ready or last thawed; without the guest's driver, mappings that it has not");
  offload->add_flag("--run-on", arguments_.run_on, "let it run on: what it touches comes back");
  offload
      ->add_option("--segment", arguments_.segment,
                   "only what it held when its runtime was up, what it had more when it was ready, or what is younger")
      ->check(CLI::IsMember({"runtime", "init", "exec", "all"}))
      ->capture_default_str();
  CLI::App* recall =
      Add(app_, "recall", "Let an offloaded function run; its pages come back as it touches them",
          "moultctl recall web --prefetch all", RunRecall);
  AddFunction(recall);
  recall
      ->add_option("--prefetch", arguments_.prefetch,
                   "fetch ahead what it touched after the last recall, all, or nothing")
      ->check(CLI::IsMember({"working-set", "all", "none"}))
      ->capture_default_str();
  Add(app_, "recall-all", "Bring all pages of all functions back, and let none run: the pool is not needed any more", "moultctl recall-all",
      RunRecallAll);
  CLI::App* policy =
      Add(app_, "policy",
          "What is done with a function between requests that come by invoke; without arguments: of which there is one",
          "moultctl policy web semi-warm:settle_s=5\n  moultctl policy web off          (let it run, and leave it alone)", RunPolicy);
  policy->add_option("FUNCTION", arguments_.function, "its id, or the name of one that lives");
  policy->add_option("POLICY", arguments_.policy, "none, fixed or semi-warm, with :KEY=VALUE...; see moult/policy.h");
  CLI::App* repurpose = Add(app_, "repurpose", "Detach a function and attach a template in its place",
                            "moultctl repurpose web thumb-template", RunRepurpose);
  AddFunction(repurpose);
  AddTemplate(repurpose);
  AddPages(repurpose);
  AddFrom(repurpose);
  repurpose->add_flag("--settled", arguments_.settled,
                      "return only when the old function's memory has been given back");
}

void Cli::AddTemplates() {
  CLI::App* templates = app_.add_subcommand("templates", "The templates in the VM's store");
  templates->require_subcommand(1);
  Add(*templates, "list", "List them", "moultctl templates list", RunTemplatesList);
  AddTemplate(Add(*templates, "show", "What one holds and needs", "moultctl templates show web-template",
                  RunTemplatesShow));
  AddTemplate(Add(*templates, "verify", "Check every byte; exit 6 when it is damaged",
                  "moultctl templates verify web-template", RunTemplatesVerify));
  AddTemplate(Add(*templates, "remove", "Remove it; VMs that have it attached keep its pages",
                  "moultctl templates remove web-template", RunTemplatesRemove));
}

void Cli::AddPools() {
  pool_command_ = app_.add_subcommand("pool", "Pools of templates that hosts share; no VM is needed");
  pool_command_->require_subcommand(1);
  const struct {
    const char* verb;
    const char* about;
    const char* example;
    bool named;
  } verbs[] = {
      {"ls", "List its templates", "moultctl pool ls file:/mnt/templates", false},
      {"stat", "How full it is", "moultctl pool stat file:/mnt/templates", false},
      {"push", "Copy a template of the store into it", "moultctl --store /var/lib/moult pool push file:/mnt/templates web",
       true},
      {"pull", "Copy one of its templates into the store",
       "moultctl --store /var/lib/moult pool pull file:/mnt/templates web", true},
      {"rm", "Remove a template", "moultctl pool rm file:/mnt/templates web", true},
      {"verify", "Fetch and check every byte of one; exit 6 when it is damaged",
       "moultctl pool verify file:/mnt/templates web", true},
  };
  for (const auto& one : verbs) {
    CLI::App* const added = Add(*pool_command_, one.verb, one.about, one.example, nullptr);
    added->callback([this, verb = one.verb] { pool_.verb = verb; });
    added->add_option("URI", pool_.uri, "file:/PATH, dax:/PATH or rdma://HOST[:PORT][,HOST[:PORT]]/")
        ->required();
    if (one.named) added->add_option("NAME", pool_.name, "the template")->required();
    added->add_option("--key", pool_.key, "file with the tenant's key, for pools that ask for one");
    added->add_option("--silence-s", pool_.silence_s, "of a file: pool: give up when nothing is read or written for so long, 0: never")
        ->capture_default_str();
  }
  CLI::App* const format = Add(*pool_command_, "format", "Make an empty pool of a DAX device or file",
                               "moultctl pool format dax:/dev/dax0.0", nullptr);
  format->callback([this] { pool_.verb = "format"; });
  format->add_option("URI", pool_.uri, "dax:/PATH")->required();
  format
      ->add_option("--size", pool_.size_mib,
                   "MiB; a file that is not there is made. By default all of the device or file")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 32));
  format->add_flag("--force", pool_.force, "even if something is on it, which goes");
}

void Cli::AddVm() {
  vm_command_ =
      Add(app_, "vm", "Start a VM for trial under QEMU; prints its control socket once the agent answers",
          "export MOULT_CONTROL=$(moultctl vm --detach)", nullptr);
  vm_command_->add_option("--kernel", vm_.kernel, "Debian's: 6.1 or 6.12")
      ->check(CLI::IsMember({"6.1", "6.12"}))
      ->capture_default_str();
  vm_command_->add_option("--memory", vm_.memory_mb, "MiB of guest RAM")
      ->check(CLI::Range(128, 1 << 20))
      ->capture_default_str();
  vm_command_
      ->add_option("--window", vm_.window_mb,
                   "MiB of window, a power of two; below 1024 firmware may place it where the guest's CPU "
                   "does not cache it; 0: none (copy mode)")
      ->check(CLI::Validator(
          [](std::string& text) {
            uint32_t mib = 0;
            const bool good = absl::SimpleAtoi(text, &mib) && (mib == 0 || std::has_single_bit(mib));
            return good ? std::string() : text + ": must be a power of two, or 0";
          },
          "MIB"))
      ->capture_default_str();
  vm_command_
      ->add_option("--window-device", vm_.window_device,
                   "what shows the window to the guest: ivshmem, or virtio-pmem as Firecracker and Cloud Hypervisor have it")
      ->check(CLI::IsMember({"ivshmem", "virtio-pmem"}))
      ->capture_default_str();
  vm_command_->add_option("--cpus", vm_.cpus, "virtual CPUs; to emulate more than one take QEMU 8.1 or newer")
      ->check(CLI::Range(1, 255))
      ->capture_default_str();
  vm_command_->add_option("--dir", vm_.dir, "folder for sockets and logs; a new one by default");
  vm_command_->add_option("--qemu", vm_.qemu, "another QEMU")->capture_default_str();
  vm_command_->add_option("--cpu", vm_.cpu,
                          "QEMU's CPU model; by default \"host\", emulated the most that QEMU can");
  vm_command_->add_option("--accel", vm_.accel, "tcg or kvm; by default KVM if it boots a kernel here")
      ->check(CLI::IsMember({"tcg", "kvm"}));
  vm_command_->add_option("--agent-binary", vm_.agent,
                          "the agent that is put into the guest; by default moult-agent beside moultctl");
  vm_command_
      ->add_option("--payload", vm_.payload,
                   "NAME=FILE: put FILE into the guest as /run/moult/NAME; may be repeated")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  vm_command_->add_option("--pool", vm_.pool,
                          "where pages of offloaded functions go: a folder, by default the one of sockets and logs, or "
                          "rdma://HOST[:PORT]/, memory that a memory node lends, with --pool-mib and --set pool_key=FILE");
  vm_command_->add_option("--pool-mib", vm_.pool_mib, "MiB that these may take; 0: as much as fits (not with rdma:)")
      ->check(CLI::Range(0, INT_MAX))
      ->capture_default_str();
  vm_command_
      ->add_option("--set", vm_.settings, "KEY=VALUE of MOULT_QEMU (host-lib/README.md), as cache=/dev/shm/mine; may be repeated")
      ->expected(1)
      ->allow_extra_args(false)
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  vm_command_->add_option("--append", vm_.append, "more of the kernel's command line");
  vm_command_->add_option("--timeout", vm_.timeout_ms, "milliseconds until the agent must answer; more for an emulated VM within an emulated one")
      ->capture_default_str()
      ->check(CLI::Range(1, INT_MAX));
  vm_command_->add_flag("--detach", vm_.detach, "leave the VM running, and end");
}

void Cli::AddCompletion() {
  completion_command_ = Add(app_, "completion", "Print a completion script for a shell",
                            "source <(moultctl completion bash)", nullptr);
  completion_command_->add_option("SHELL", shell_, "bash, zsh or fish")
      ->required()
      ->check(CLI::IsMember({"bash", "zsh", "fish"}));
}

namespace {

bool AsksForJson(int argc, char** argv) {
  for (int i = 1; i < argc && argv[i] != std::string_view("--"); ++i) {
    if (argv[i] == std::string_view("--json")) return true;
  }
  return false;
}

}  // namespace

int Cli::Run(int argc, char** argv) {
  try {
    app_.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app_.exit(error);  // help
    const std::vector<std::string> strange = app_.remaining();
    const bool no_command = app_.get_subcommands().empty() && !strange.empty();
    const std::string text =
        no_command ? absl::StrCat("there is no command ", strange.front()) : std::string(error.what());
    // Of a line that was refused nothing is set, not even --json.
    return Fail(absl::InvalidArgumentError(absl::StrCat(text, "; see moultctl --help")),
                AsksForJson(argc, argv));
  }
  if (completion_command_->parsed()) return Print({}, CompletionScript(app_, shell_), false);
  if (vm_command_->parsed()) {
    vm_.json = arguments_.json;
    vm_.store = arguments_.where.store;
    vm_.tenant = arguments_.where.tenant;
    return RunVm(vm_);
  }
  if (pool_command_->parsed()) {
    pool_.json = arguments_.json;
    pool_.where = arguments_.where;
    return RunPool(pool_);
  }
  Where& where = arguments_.where;
  if (!where.agent.empty() && !where.control.empty())
    return Fail(absl::InvalidArgumentError("give --control or --agent, not both"), arguments_.json);
  // The environment's socket is for when nothing else was said.
  const char* control = getenv("MOULT_CONTROL");
  if (where.agent.empty() && where.control.empty() && control != nullptr) where.control = control;
  const absl::StatusOr<std::unique_ptr<Backend>> backend = Open(arguments_.where);
  if (!backend.ok()) return Fail(backend.status(), arguments_.json);
  return invoke_command_->parsed() ? RunInvoke(**backend, arguments_, invoke_)
                                   : command_(**backend, arguments_);
}

}  // namespace moult::ctl
