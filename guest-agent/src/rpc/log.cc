// SPDX-License-Identifier: Apache-2.0
#include "rpc/log.h"

#include <unistd.h>

#include <algorithm>
#include <string>

namespace moult::agent {

void Log(std::string_view line) {
  std::string text = "moult-agent: ";
  text += line;
  // One line each, whatever a peer put into a name.
  std::replace(text.begin(), text.end(), '\n', '|');
  text += '\n';
  (void)!write(STDERR_FILENO, text.data(), text.size());
}

}  // namespace moult::agent
