// SPDX-License-Identifier: Apache-2.0
//
// The command line of what shows the page ledger.
#include "cli.h"

#include <climits>

namespace moult::ctl {

void Cli::AddLedger() {
  CLI::App* pages =
      Add(app_, "pages", "Whose the pages of guest RAM are: by class, by kind, by function and its segments",
          "moultctl pages\n  moultctl pages --runs web      (each run of pages of one function)\n"
          "  moultctl pages --json --runs >earlier.json\n"
          "  moultctl pages --against earlier.json      (what has become another's, or something else, since)",
          RunPages);
  pages->add_option("FUNCTION", arguments_.function, "only what is this one's: its id, or its name");
  pages->add_flag("--runs", arguments_.runs, "also list the runs: address, class, owner, file, flags");
  pages->add_option("--against", arguments_.against,
                    "tell the differences against an earlier report, which pages --json --runs has printed to this file (- is stdin)");
  CLI::App* why = Add(app_, "why", "Say why a page of guest RAM is in use, and by whom",
                      "moultctl why 0x1f400000\n  moultctl why --hva 0x7f1234500000", RunWhy);
  why->add_option("ADDRESS", arguments_.address, "guest-physical, 0x... or decimal")->required();
  why->add_flag("--hva", arguments_.hva, "ADDRESS is one of the VMM's process instead");
  CLI::App* map =
      Add(app_, "map", "Draw guest RAM: a colour for each class, a hue for each function",
          "moultctl map\n  moultctl map --png ram.png --svg ram.svg --width 1024 --hilbert", RunMap);
  map->add_option("--png", arguments_.png, "write it to this file; without a file it goes to the terminal");
  map->add_option("--svg", arguments_.svg, "the same, as shapes and text");
  map->add_option("--width", arguments_.width, "pixels (512), or columns of text (as the terminal has)")
      ->check(CLI::Range(8, 4096));
  map->add_flag("--hilbert", arguments_.hilbert,
                "along a Hilbert curve, so that what is near in memory is near on the plane");
  CLI::App* top = Add(app_, "top", "Watch the functions, the one with the most user state first",
                      "moultctl top\n  moultctl top --json --interval 0.5 --count 10\n\n"
                      "USER       anonymous and shared memory, in RAM or out\n"
                      "RESIDENT   all that the guest's kernel counts for it (MEMORY of ps: also its page cache, and the kernel's\n"
                      "           own), without what is out: what it has in guest RAM\n"
                      "OFFLOADED  what is out, pages of zeros among it\n"
                      "TEMPLATE   what it still shares with its template, which is in no guest's RAM\n"
                      "RUNTIME, INIT, EXEC  private and shared pages, in RAM or out, that came before its runtime was up, before it\n"
                      "           was ready, and later\n"
                      "FAULTS/S   page faults that the guest's kernel counted\n"
                      "RECALLS/S  of pages that were out, those that the host served\n"
                      "-          what is not known", RunTop);
  top->add_option("--interval", arguments_.interval, "seconds between two rounds")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  top->add_option("--count", arguments_.count, "rounds; by default until SIGINT")->check(CLI::Range(1, INT_MAX));
  top->add_flag("--no-pages", arguments_.no_pages,
                "do not look at the pages of guest RAM now and then, for segments (RUNTIME, INIT, EXEC) and what is shared with a template");
}

}  // namespace moult::ctl
