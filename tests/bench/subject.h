// SPDX-License-Identifier: Apache-2.0
//
// What is dumped and restored: real programs, and victims of a chosen size.
#ifndef MOULT_BENCH_SUBJECT_H_
#define MOULT_BENCH_SUBJECT_H_

#include <sys/types.h>

#include <string>
#include <vector>

#include "moult/base/status.h"
#include "victim.h"

namespace moult::bench {

struct Subject {
  std::string name;      // "python", "pages-256M", "threads-500"
  std::string series;    // empty: a real program; else what grows: "pages", "threads", "vmas" or "fds"
  VictimArguments size;  // of a victim
};

// Everything there is to measure, or a small part of it.
std::vector<Subject> AllSubjects(bool quick);

struct Places {
  std::string self;      // this program
  std::string tool;      // moult-image
  std::string programs;  // tests/programs
  std::string work;      // a folder of the run's own
  std::string build;     // where programs are compiled, kept between runs
};

// Starts it and returns its pid, a child of ours. kUnavailable: something that it needs is not installed
// here.
absl::StatusOr<pid_t> Start(const Subject& subject, const Places& places);

}  // namespace moult::bench

#endif  // MOULT_BENCH_SUBJECT_H_
