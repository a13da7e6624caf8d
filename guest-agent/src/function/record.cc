// SPDX-License-Identifier: Apache-2.0
#include "function/record.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <climits>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "absl/strings/escaping.h"
#include "proc/read.h"
#include "proc/stat.h"

namespace moult::agent {
namespace {

using nlohmann::json;

// The member, when it is there and `is` so; else null, so that no wrong type is taken.
const json& Member(const json& root, const char* key, bool (json::*is)() const) {
  static const json& none = *new json();
  const auto found = root.find(key);
  return found != root.end() && ((*found).*is)() ? *found : none;
}

}  // namespace

absl::StatusOr<std::vector<pid_t>> Function::Processes() const {
  if (cgroup == nullptr) return std::vector<pid_t>{info.pid};
  MOULT_ASSIGN_OR_RETURN(std::vector<pid_t> pids, cgroup->Processes());
  std::erase(pids, init_pid);
  return pids;
}

absl::Status ParseState(std::string_view text, Function* function) {
  const json root = json::parse(text, nullptr, false);
  if (!root.is_object()) return absl::DataLossError("not a JSON object");
  const json& info = Member(root, "info", &json::is_string);
  const json& pid = Member(root, "init_pid", &json::is_number_unsigned);
  const json& start = Member(root, "init_start", &json::is_number_unsigned);
  const json& shell = Member(root, "shell", &json::is_boolean);
  if (info.is_null() || pid.is_null() || start.is_null() || pid.get<uint64_t>() > INT_MAX)
    return absl::DataLossError("not a state of this agent");
  std::string bytes;
  if (!absl::Base64Unescape(info.get<std::string>(), &bytes)) return absl::DataLossError("info: not base64");
  // SAFETY: the verifier reads inside of `bytes` alone.
  flatbuffers::Verifier verifier(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  if (!verifier.VerifyBuffer<rpc::FunctionInfo>(nullptr)) return absl::DataLossError("info: damaged");
  flatbuffers::GetRoot<rpc::FunctionInfo>(bytes.data())->UnPackTo(&function->info);
  if (function->info.spec == nullptr) function->info.spec = std::make_unique<rpc::FunctionSpecT>();
  function->init_pid = pid.get<pid_t>();
  function->init_start = start.get<uint64_t>();
  function->shell = !shell.is_null() && shell.get<bool>();
  return absl::OkStatus();
}

std::string FormatState(const Function& function) {
  flatbuffers::FlatBufferBuilder builder;
  builder.Finish(rpc::FunctionInfo::Pack(builder, &function.info));
  const std::string info(reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize());
  const json root = {{"name", function.info.spec ? function.info.spec->name : ""},
                     {"state", rpc::EnumNameFunctionState(function.info.state)},
                     {"pid", function.info.pid},
                     {"init_pid", function.init_pid},
                     {"init_start", function.init_start},
                     {"shell", function.shell},
                     {"info", absl::Base64Escape(info)}};
  return root.dump(1, ' ', false, json::error_handler_t::replace) + "\n";
}

absl::Status WriteWhole(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".new";
  const UniqueFd fd(open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("make ", temporary));
  for (size_t done = 0; done < text.size();) {
    const ssize_t n = write(fd.get(), text.data() + done, text.size() - done);
    if (n < 0) {
      const absl::Status status = ErrnoStatus(absl::StrCat("write ", temporary));
      unlink(temporary.c_str());
      return status;
    }
    done += static_cast<size_t>(n);
  }
  if (rename(temporary.c_str(), path.c_str()) < 0) return ErrnoStatus(absl::StrCat("rename to ", path));
  return absl::OkStatus();
}

absl::Status Save(const Function& function) {
  return WriteWhole(function.folder + "/state.json", FormatState(function));
}

std::vector<std::unique_ptr<Function>> LoadAll(const std::string& functions_dir,
                                               std::vector<std::string>* errors) {
  std::vector<std::unique_ptr<Function>> all;
  auto ids = proc::ListNumeric(functions_dir);
  if (!ids.ok()) return all;
  for (const int id : *ids) {
    auto function = std::make_unique<Function>();
    function->folder = absl::StrCat(functions_dir, "/", id);
    auto text = proc::ReadFile(function->folder + "/state.json");
    const absl::Status status = text.ok() ? ParseState(*text, function.get()) : text.status();
    if (!status.ok()) {
      errors->push_back(absl::StrCat(function->folder, ": ", status.message()));
      function->info = {};
      function->info.spec = std::make_unique<rpc::FunctionSpecT>();
      function->shell = true;  // nobody's: to be cleared away
    }
    function->info.id = static_cast<uint64_t>(id);
    all.push_back(std::move(function));
  }
  return all;
}

absl::Status MakeFolder(const Function& function) {
  const std::string shared = function.folder + "/shared";
  if (mkdir(function.folder.c_str(), 0700) < 0 || mkdir(shared.c_str(), 0755) < 0)
    return ErrnoStatus(absl::StrCat("make ", shared));
  if (chmod(shared.c_str(), 0755) < 0) return ErrnoStatus(absl::StrCat("chmod ", shared));
  for (const char* name : {"log", "generation"}) {
    const std::string path = absl::StrCat(shared, "/", name);
    const UniqueFd fd(open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (!fd.valid()) return ErrnoStatus(absl::StrCat("make ", path));
    if (std::string_view(name) == "generation" && write(fd.get(), "0\n", 2) != 2)
      return ErrnoStatus(absl::StrCat("write ", path));
  }
  return absl::OkStatus();
}

void RemoveFolder(const Function& function) {
  std::error_code ignored;
  std::filesystem::remove_all(function.folder, ignored);
}

void TrimLog(const Function& function, uint64_t keep) {
  const UniqueFd fd(open(function.log_path().c_str(), O_WRONLY | O_CLOEXEC | O_NOFOLLOW));
  struct stat st {};
  if (!fd.valid() || fstat(fd.get(), &st) < 0 || static_cast<uint64_t>(st.st_blocks) * 512 <= keep * 2)
    return;
  // A hole, not a truncation: it takes nothing that is written meanwhile, and readers keep their place.
  const off_t hole = (st.st_size - static_cast<off_t>(keep)) & ~off_t{4095};
  if (hole > 0) fallocate(fd.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, hole);
}

uint64_t StartTime(pid_t pid) {
  auto text = proc::ReadFile(absl::StrCat("/proc/", pid, "/stat"));
  if (!text.ok()) return 0;
  auto stat = proc::ParseStat(*text);
  return stat.ok() && stat->state != 'Z' ? stat->start_time : 0;
}

UniqueFd OpenSame(pid_t pid, uint64_t start_time) {
  if (pid <= 0) return {};
  UniqueFd fd(static_cast<int>(syscall(SYS_pidfd_open, pid, 0)));
  // Looked at after opening: from here on the descriptor keeps meaning that process.
  if (fd.valid() && StartTime(pid) != start_time) fd.Reset();
  return fd;
}

absl::StatusOr<UniqueFd> LockFolder(const std::string& folder) {
  UniqueFd fd(open(absl::StrCat(folder, "/lock").c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
  if (!fd.valid()) return ErrnoStatus(absl::StrCat("open ", folder, "/lock"));
  if (flock(fd.get(), LOCK_EX | LOCK_NB) < 0)
    return absl::FailedPreconditionError(
        "an operation that an earlier agent began is still going on; try again when it has ended");
  return fd;
}

void WriteNote(int lock, const LockNote& note) { (void)!pwrite(lock, note.was_frozen ? "f" : "r", 1, 0); }

void ClearNote(int lock) { (void)!ftruncate(lock, 0); }

std::optional<LockNote> ReadNote(int lock) {
  char note;
  if (pread(lock, &note, 1, 0) != 1) return std::nullopt;
  return LockNote{note == 'f'};
}

}  // namespace moult::agent
