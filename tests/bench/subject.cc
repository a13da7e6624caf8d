// SPDX-License-Identifier: Apache-2.0
#include "subject.h"

#include <sys/stat.h>

#include "command.h"

namespace moult::bench {
namespace {

constexpr long kPagesPerMib = 256;

Subject Victim(const std::string& series, const std::string& size, VictimArguments arguments) {
  return {absl::StrCat(series, "-", size), series, arguments};
}

absl::StatusOr<pid_t> StartProgram(const Subject& subject, const Places& places, const std::string& work) {
  const std::string helper = MOULT_BENCH_SOURCE_DIR "/start_program.py";
  MOULT_ASSIGN_OR_RETURN(const auto answer, RunForJson({"/usr/bin/python3", helper, places.programs,
                                                        subject.name, work, places.build}));
  if (answer.contains("skip")) return absl::UnavailableError(answer["skip"].get<std::string>());
  return answer.at("pid").get<pid_t>();
}

}  // namespace

std::vector<Subject> AllSubjects(bool quick) {
  std::vector<Subject> subjects;
  for (const char* name : {"python", "node", "java", "go", "redis", "c"}) {
    if (!quick || std::string(name) == "python") subjects.push_back({name, "", {}});
  }
  for (const long mib : {1, 16, 64, 256, 1024}) {
    if (!quick || mib <= 64)
      subjects.push_back(Victim("pages", absl::StrCat(mib, "M"), {.pages = mib * kPagesPerMib}));
  }
  for (const long threads : {1, 10, 100, 500}) {
    if (!quick || threads <= 100)
      subjects.push_back(Victim("threads", absl::StrCat(threads), {.threads = threads}));
  }
  for (const long vmas : {50, 500, 5000}) {
    if (!quick || vmas <= 500) subjects.push_back(Victim("vmas", absl::StrCat(vmas), {.vmas = vmas}));
  }
  for (const long fds : {4, 100, 1000}) {
    if (!quick || fds <= 100) subjects.push_back(Victim("fds", absl::StrCat(fds), {.fds = fds}));
  }
  return subjects;
}

absl::StatusOr<pid_t> Start(const Subject& subject, const Places& places) {
  const std::string work = absl::StrCat(places.work, "/", subject.name);
  if (mkdir(work.c_str(), 0755) < 0) return ErrnoStatus(absl::StrCat("make folder ", work));
  if (subject.series.empty()) return StartProgram(subject, places, work);
  const VictimArguments& size = subject.size;
  return StartUntilReady(
      {places.self, "victim", "--pages", absl::StrCat(size.pages), "--threads", absl::StrCat(size.threads),
       "--vmas", absl::StrCat(size.vmas), "--fds", absl::StrCat(size.fds)},
      kVictimReadyFd);
}

}  // namespace moult::bench
