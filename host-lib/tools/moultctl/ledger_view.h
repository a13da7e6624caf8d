// SPDX-License-Identifier: Apache-2.0
//
// The page ledger in words and tables.
#ifndef MOULT_TOOLS_MOULTCTL_LEDGER_VIEW_H_
#define MOULT_TOOLS_MOULTCTL_LEDGER_VIEW_H_

#include <string>

#include "ledger.h"

namespace moult::ctl {

// By class, by kind, by function. `whole`: of all RAM, not of one function; then the classes must sum up to
// it, and a line says so where they do not.
std::string PagesText(const Ledger& ledger, bool whole);
// A line for each run.
std::string RunsText(const Ledger& ledger);
// The result of `why`: its sentence, then what is known of the page.
std::string WhyText(const Json& result);

// "rw-".
std::string Protection(uint64_t prot);
// "12.3 MiB", or "-".
std::string BytesOrNone(const std::optional<uint64_t>& bytes);
// "4.2", and a bar of up to `width` signs, which has at least one where there is anything at all.
std::string Percent(uint64_t part, uint64_t whole);
std::string Bar(uint64_t part, uint64_t whole, size_t width);

}  // namespace moult::ctl

#endif  // MOULT_TOOLS_MOULTCTL_LEDGER_VIEW_H_
