// SPDX-License-Identifier: Apache-2.0
//
// Commands about the guest and its functions.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "commands.h"
#include "ledger_view.h"
#include "moult/base/status.h"
#include "moult/moult.h"
#include "moult/policy.h"
#include "output.h"
#include "top.h"

namespace moult::ctl {
namespace {

// What came out other than it was asked for, or will: a line each.
std::string Notes(const Json& result) {
  std::string lines;
  for (const Json* told : {&result, &Member(result, "template")}) {
    for (const Json& note : Member(*told, "notes")) {
      if (note.is_string()) absl::StrAppend(&lines, "note: ", Printable(note.get<std::string>()), "\n");
    }
  }
  return lines;
}

// Calls, and prints the result as `format` has it.
template <typename Format>
int CallAndPrint(Backend& backend, const Arguments& arguments, const std::string& method, const Json& params,
                 Format format) {
  const absl::StatusOr<Json> result = backend.Call(method, params);
  if (!result.ok()) return Fail(result.status(), arguments.json);
  return Print(*result, absl::StrCat(format(*result), Notes(*result)), arguments.json);
}

std::string FunctionLine(const Json& result) {
  const Json& function = Member(result, "function");
  return absl::StrCat(Text(function, "id"), " ", Text(Member(function, "spec"), "name"), " ",
                      Text(function, "state"), "\n");
}

// A method whose only parameter is the function.
int OnFunction(Backend& backend, const Arguments& arguments, const std::string& method,
               const std::string& done) {
  const absl::StatusOr<uint64_t> id = FunctionId(backend, arguments.function);
  if (!id.ok()) return Fail(id.status(), arguments.json);
  return CallAndPrint(backend, arguments, method, {{"function", *id}},
                      [&](const Json&) { return absl::StrCat(*id, " ", done, "\n"); });
}

// One object for each piece: what a function prints need not be lines.
void PrintLog(const std::string& piece, bool json) {
  if (piece.empty()) return;
  if (json) {
    Json object = Json::object();
    AddBytes(&object, "log", piece);
    Print(object, "", true);
  } else {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
  }
  std::fflush(stdout);
}

// Before anything is started for it.
absl::Status CheckPolicy(const std::string& spec) {
  moult_policy* policy = nullptr;
  if (spec.empty()) return absl::OkStatus();
  if (moult_policy_open(spec.c_str(), &policy) < 0) return absl::InvalidArgumentError(absl::StrCat("--policy ", spec, ": ", moult_last_error()));
  moult_policy_close(policy);
  return absl::OkStatus();
}

Json WithFrom(Json params, const Arguments& arguments) {
  if (!arguments.from.empty()) params["from"] = arguments.from;
  if (!arguments.digest.empty()) params["digest"] = arguments.digest;
  return params;
}

bool Lives(const Json& function) {
  std::string state = Text(function, "state");
  std::transform(state.begin(), state.end(), state.begin(), [](unsigned char c) { return std::tolower(c); });
  return state != "ended";
}

struct Function {
  uint64_t id = 0;
  std::string name;
};

// One that lives, with its name.
absl::StatusOr<Function> FindFunction(Backend& backend, const std::string& function) {
  MOULT_ASSIGN_OR_RETURN(const uint64_t id, FunctionId(backend, function));
  MOULT_ASSIGN_OR_RETURN(const Json result, backend.Call("ps", Json::object()));
  for (const Json& candidate : Member(result, "functions")) {
    if (Number(candidate, "id") == id && Lives(candidate)) return Function{id, FunctionName(candidate)};
  }
  return absl::NotFoundError(absl::StrCat("function ", id, ": does not live; see moultctl ps"));
}

// ", 1.2 MiB from the pool, 3.4 MiB from the cache" of a template that lies elsewhere.
std::string Sources(const Json& result) {
  const Json& bytes = Member(result, "bytes_by_source");
  if (!bytes.is_object() || bytes.empty()) return "";
  return absl::StrCat(", ", Bytes(Number(bytes, "pool")), " from the pool, ", Bytes(Number(bytes, "cache")),
                      " from the cache");
}

}  // namespace

absl::StatusOr<uint64_t> FunctionId(Backend& backend, const std::string& function) {
  uint64_t id = 0;
  if (absl::SimpleAtoi(function, &id)) return id;
  MOULT_ASSIGN_OR_RETURN(const Json result, backend.Call("ps", Json::object()));
  std::vector<uint64_t> found;
  for (const Json& candidate : Member(result, "functions")) {
    if (FunctionName(candidate) == function && Lives(candidate)) found.push_back(Number(candidate, "id"));
  }
  if (found.size() == 1) return found[0];
  if (found.empty())
    return absl::NotFoundError(
        absl::StrCat("function ", function, ": none of this name lives; see moultctl ps"));
  return absl::InvalidArgumentError(absl::StrCat("function ", function, ": ", found.size(),
                                                 " have this name; give the id, see moultctl ps"));
}

int RunHello(Backend& backend, const Arguments& arguments) {
  return CallAndPrint(backend, arguments, "hello", Json::object(), [](const Json& result) {
    const Json& hello = Member(result, "hello");
    std::string features;
    for (const Json& feature : Member(hello, "features"))
      absl::StrAppend(&features, " ", feature.is_string() ? feature.get<std::string>() : "");
    std::string text = Table({{"agent", Text(hello, "agent_version")},
                              {"kernel", Text(hello, "kernel_release")},
                              {"boot", Text(hello, "boot_id")},
                              {"RAM", Bytes(Number(hello, "ram_bytes"))},
                              {"features", features.empty() ? "none" : features.substr(1)}});
    const Json& windows = Member(hello, "windows");
    for (size_t i = 0; i < windows.size(); ++i) {
      absl::StrAppend(&text, absl::StrFormat("window %d  %s at 0x%x\n", i, Bytes(Number(windows[i], "size")),
                                             Number(windows[i], "gpa")));
    }
    return text;
  });
}

int RunDoctor(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<Json> result = backend.Call("doctor", Json::object());
  if (!result.ok()) return Fail(result.status(), arguments.json);
  std::string text;
  bool healthy = true;
  for (const Json& check : Member(*result, "checks")) {
    const bool ok = Member(check, "ok") == true;
    healthy = healthy && ok;
    absl::StrAppend(&text, !ok ? "FAIL  " : Member(check, "note") == true ? "note  " : "ok    ", Text(check, "name"), ": ", Text(check, "detail"), "\n");
    if (!ok && !Text(check, "remedy").empty())
      absl::StrAppend(&text, "      remedy: ", Text(check, "remedy"), "\n");
  }
  Print(*result, text, arguments.json);
  return healthy ? 0 : 3;
}

int RunStatus(Backend& backend, const Arguments& arguments) {
  return CallAndPrint(backend, arguments, "status", Json::object(), [](const Json& result) {
    return result.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
  });
}

int RunMetrics(Backend& backend, const Arguments& arguments) {
  return CallAndPrint(backend, arguments, "metrics", Json::object(), [](const Json& result) {
    const Json& text = Member(result, "text");
    if (!text.is_string()) return std::string();
    std::vector<std::string> lines = absl::StrSplit(text.get_ref<const std::string&>(), '\n');
    for (std::string& line : lines) line = Printable(std::move(line));
    return absl::StrJoin(lines, "\n");
  });
}

int RunRun(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<Json> spec = SpecOf(arguments.run);
  if (!spec.ok()) return Fail(spec.status(), arguments.json);
  if (const absl::Status policy = CheckPolicy(arguments.policy); !policy.ok()) return Fail(policy, arguments.json);
  if (arguments.policy.empty()) return CallAndPrint(backend, arguments, "run", {{"function", *spec}}, FunctionLine);
  const absl::StatusOr<Json> result = backend.Call("run", {{"function", *spec}});
  if (!result.ok()) return Fail(result.status(), arguments.json);
  const uint64_t id = Number(Member(*result, "function"), "id");
  const absl::StatusOr<Json> set = backend.Call("policy", {{"function", id}, {"policy", arguments.policy}});
  const int printed = Print(*result, FunctionLine(*result), arguments.json);
  // It runs, and the caller has its number.
  return set.ok() ? printed : Fail(Annotate(set.status(), absl::StrCat("function ", id, " runs, without a policy")), arguments.json);
}

int RunPs(Backend& backend, const Arguments& arguments) {
  return CallAndPrint(backend, arguments, "ps", Json::object(), [](const Json& result) {
    std::vector<std::vector<std::string>> rows{
        {"ID", "NAME", "STATE", "PID", "MEMORY", "USER", "OFFLOADED", "TEMPLATE", "SHOWN", "END"}};
    for (const Json& f : Member(result, "functions")) {
      rows.push_back({Text(f, "id"), FunctionName(f), Text(f, "state"), Text(f, "pid"),
                      Bytes(Number(f, "memory_bytes")), BytesOrNone(UserBytes(f)),
                      BytesOrNone(Whole(f, "offloaded_bytes")),
                      Text(f, "template").empty() ? "-" : Text(f, "template"), BytesOrNone(Whole(f, "template_bytes")), Text(f, "end_reason")});
    }
    return Table(rows);
  });
}

int RunFreeze(Backend& backend, const Arguments& arguments) {
  return OnFunction(backend, arguments, "freeze", "frozen");
}
int RunThaw(Backend& backend, const Arguments& arguments) {
  return OnFunction(backend, arguments, "thaw", "running");
}
int RunKill(Backend& backend, const Arguments& arguments) {
  return OnFunction(backend, arguments, "kill", "killed");
}
int RunForget(Backend& backend, const Arguments& arguments) {
  return OnFunction(backend, arguments, "forget", "forgotten");
}

int RunLogs(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<uint64_t> id = FunctionId(backend, arguments.function);
  if (!id.ok()) return Fail(id.status(), arguments.json);
  absl::StatusOr<UniqueFd> stream = backend.Stream(
      "logs", {{"function", *id}, {"follow", arguments.follow}, {"tail_bytes", arguments.tail_bytes}});
  if (!stream.ok()) return Fail(stream.status(), arguments.json);
  std::array<char, 65536> chunk;
  std::string text;
  for (ssize_t got = -1; got != 0;) {
    got = read(stream->get(), chunk.data(), chunk.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Fail(ErrnoStatus("logs: read"), arguments.json);
    text.append(chunk.data(), static_cast<size_t>(got));
    // A character may come in two pieces.
    const size_t kept = got == 0 || !arguments.json ? 0 : UnfinishedUtf8(text);
    PrintLog(text.substr(0, text.size() - kept), arguments.json);
    text.erase(0, text.size() - kept);
  }
  return 0;
}

int RunCapture(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<uint64_t> id = FunctionId(backend, arguments.function);
  if (!id.ok()) return Fail(id.status(), arguments.json);
  const Json params{
      {"function", *id}, {"name", arguments.name}, {"end", arguments.end}, {"pages", arguments.pages}};
  return CallAndPrint(backend, arguments, "capture", params, [&](const Json& result) {
    const uint64_t size = Number(Member(result, "template"), "user_state_bytes");
    return absl::StrCat(arguments.name, ": ", Bytes(size), " of user state; stopped ",
                        Millis(Number(result, "stopped_us")), ", ", Millis(Number(result, "total_us")),
                        " in all\n");
  });
}

int RunFork(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<Function> function = FindFunction(backend, arguments.function);
  if (!function.ok()) return Fail(function.status(), arguments.json);
  const std::string name = arguments.name.empty() ? function->name : arguments.name;
  const Json params{{"function", function->id}, {"name", name}, {"to", arguments.to}, {"keep", arguments.keep}, {"pages", arguments.pages}};
  return CallAndPrint(backend, arguments, "fork", params, [&](const Json& result) {
    const Json& made = Member(result, "template");
    const std::string kept = Text(result, "kept") == "true" ? ", and in the store" : "";
    return absl::StrCat(name, " is in ", arguments.to, kept, ": ", Bytes(Number(made, "user_state_bytes")),
                        " of user state, digest ", Text(made, "digest"), "; stopped ", Millis(Number(result, "stopped_us")), ", ",
                        Millis(Number(result, "total_us")), " in all\n");
  });
}

int RunAttach(Backend& backend, const Arguments& arguments) {
  const Json params = WithFrom({{"name", arguments.name}, {"pages", arguments.pages}}, arguments);
  return CallAndPrint(backend, arguments, "attach", params, [&](const Json& result) {
    return absl::StrCat(Text(Member(result, "function"), "id"), " ", arguments.name, " attached in ",
                        Millis(Number(result, "total_us")), ", pages ", Text(result, "pages"), Sources(result), " (",
                        Phases(result), ")\n");
  });
}

int RunDetach(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<uint64_t> id = FunctionId(backend, arguments.function);
  if (!id.ok()) return Fail(id.status(), arguments.json);
  return CallAndPrint(backend, arguments, "detach", {{"function", *id}}, [&](const Json& result) {
    return absl::StrCat(*id, " detached in ", Millis(Number(result, "total_us")), ", ",
                        Bytes(Number(result, "discarded_bytes")), " given back\n");
  });
}

int RunRepurpose(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<uint64_t> id = FunctionId(backend, arguments.function);
  if (!id.ok()) return Fail(id.status(), arguments.json);
  const Json params = WithFrom(
      {{"function", *id}, {"name", arguments.name}, {"pages", arguments.pages}, {"settled", arguments.settled}}, arguments);
  return CallAndPrint(backend, arguments, "repurpose", params, [&](const Json& result) {
    const std::string given = Text(result, "settled") == "true"
                                  ? absl::StrCat(Bytes(Number(result, "discarded_bytes")), " given back ")
                                  : "";
    return absl::StrCat(*id, " is now ", Text(Member(result, "function"), "id"), " ", arguments.name, " in ",
                        Millis(Number(result, "total_us")), given.empty() ? " (" : absl::StrCat(", ", given, "("), Phases(result), ")", Sources(result), "\n");
  });
}

int RunOffload(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<uint64_t> id = FunctionId(backend, arguments.function);
  if (!id.ok()) return Fail(id.status(), arguments.json);
  const Json params{{"function", *id},
                    {"cold_only", arguments.cold_only},
                    {"run_on", arguments.run_on},
                    {"segment", arguments.segment}};
  return CallAndPrint(backend, arguments, "offload", params, [&](const Json& result) {
    const uint64_t out = Number(result, "offloaded_bytes") + Number(result, "zero_bytes");
    return absl::StrCat(*id, " offloaded in ", Millis(Number(result, "total_us")), ": ", Bytes(out),
                        " out of the guest, ", Bytes(Number(result, "offloaded_bytes")),
                        " of it in the pool (", Phases(result), ")\n");
  });
}

int RunRecall(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<uint64_t> id = FunctionId(backend, arguments.function);
  if (!id.ok()) return Fail(id.status(), arguments.json);
  return CallAndPrint(backend, arguments, "recall", {{"function", *id}, {"prefetch", arguments.prefetch}},
                      [&](const Json& result) {
                        return absl::StrCat(*id, " recalled in ", Millis(Number(result, "total_us")), ": ",
                                            Bytes(Number(result, "prefetched_bytes")), " fetched, ",
                                            Bytes(Number(result, "left_bytes")), " come when touched (",
                                            Phases(result), ")\n");
                      });
}

int RunRecallAll(Backend& backend, const Arguments& arguments) {
  return CallAndPrint(backend, arguments, "recall_all", Json::object(), [](const Json& result) {
    return absl::StrCat(Bytes(Number(result, "recalled_bytes")), " recalled in ", Millis(Number(result, "total_us")), "\n");
  });
}

int RunPolicy(Backend& backend, const Arguments& arguments) {
  if (!arguments.policy.empty()) {
    const absl::StatusOr<uint64_t> id = FunctionId(backend, arguments.function);
    if (!id.ok()) return Fail(id.status(), arguments.json);
    const absl::StatusOr<Json> set = backend.Call("policy", {{"function", *id}, {"policy", arguments.policy}});
    if (!set.ok()) return Fail(set.status(), arguments.json);
    return Print(*set, absl::StrCat(*id, " ", arguments.policy, "\n"), arguments.json);
  }
  const absl::StatusOr<Json> status = backend.Call("status", Json::object());
  if (!status.ok()) return Fail(status.status(), arguments.json);
  uint64_t only = 0;
  if (!arguments.function.empty()) {
    const absl::StatusOr<uint64_t> id = FunctionId(backend, arguments.function);
    if (!id.ok()) return Fail(id.status(), arguments.json);
    only = *id;
  }
  Json shown = Json::array();
  std::vector<std::vector<std::string>> rows{{"ID", "POLICY", "STATE", "IDLE", "NEXT", "RESIDENT", "OFFLOADED", "ERROR"}};
  for (const Json& one : Member(*status, "policies")) {
    if (only != 0 && Number(one, "function") != only) continue;
    uint64_t resident = 0;
    uint64_t offloaded = 0;
    for (const Json& segment : Member(one, "segments")) {
      resident += Number(segment, "resident_bytes");
      offloaded += Number(segment, "offloaded_bytes");
    }
    rows.push_back({Text(one, "function"), Text(one, "policy"), Text(one, "state"), Millis(Number(one, "idle_ms") * 1000),
                    one.contains("next_ms") ? Millis(Number(one, "next_ms") * 1000) : "-", Bytes(resident), Bytes(offloaded),
                    Text(Member(one, "error"), "message")});
    shown.push_back(one);
  }
  return Print(Json{{"policies", shown}}, Table(rows), arguments.json);
}

}  // namespace moult::ctl
