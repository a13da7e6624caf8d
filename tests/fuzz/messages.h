// SPDX-License-Identifier: Apache-2.0
//
// One good message of every kind, for a fuzzer would not find its way into a FlatBuffer by itself, and good
// messages some of whose bytes are changed.
#ifndef MOULT_TESTS_FUZZ_MESSAGES_H_
#define MOULT_TESTS_FUZZ_MESSAGES_H_

#include <string>
#include <string_view>
#include <vector>

#include "moult/protocol/message.h"

namespace moult::fuzz {

// Serialized; each is accepted by the parser of its side, or the program ends.
const std::vector<std::string>& Requests();
const std::vector<std::string>& Responses();
rpc::FunctionSpecT Spec();
// The report of pages among Responses(), and its runs as a data frame has them.
rpc::PagesReportT PagesReport();
std::string PageRuns();

// By which pages are moved, each for its own step: an error; a list, and one in which function 7 has ended; a function; a report of that
// function's pages alone, and one of all, where the first of its pages are free and the others the kernel's.
const std::vector<std::string>& MoveResponses();
// Runs of the one report, and of the other.
const std::vector<std::string>& MoveRuns();

// `changes`: which message; then three bytes a change: where (two), and what is xor'ed in.
std::string Changed(const std::vector<std::string>& messages, std::string_view changes);

}  // namespace moult::fuzz

#endif  // MOULT_TESTS_FUZZ_MESSAGES_H_
