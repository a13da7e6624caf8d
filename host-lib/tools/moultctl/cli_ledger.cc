// SPDX-License-Identifier: Apache-2.0
//
// The command line of what shows the page ledger.
#include "cli.h"

namespace moult::ctl {

void Cli::AddLedger() {
  CLI::App* pages =
      Add(app_, "pages", "Whose the pages of guest RAM are: by class, by kind, by function",
          "moultctl pages\n  moultctl pages --runs web      (each run of pages of one function)", RunPages);
  pages->add_option("FUNCTION", arguments_.function, "only what is this one's: its id, or its name");
  pages->add_flag("--runs", arguments_.runs, "also list the runs: address, class, owner, file, flags");
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
                      "moultctl top\n  moultctl top --json --interval 0.5 --count 10", RunTop);
  top->add_option("--interval", arguments_.interval, "seconds between two rounds")
      ->check(CLI::Range(0.1, 86400.0))
      ->capture_default_str();
  top->add_option("--count", arguments_.count, "rounds; by default until SIGINT")->check(CLI::PositiveNumber);
}

}  // namespace moult::ctl
