// SPDX-License-Identifier: Apache-2.0
#ifndef MOULT_ADAPTERS_QEMU_LOG_H_
#define MOULT_ADAPTERS_QEMU_LOG_H_

#include <string>

namespace moult::qemu {

// Lines for the operator: "moult: error: ...". To a file, or to QEMU's stderr. Any thread.
class Log {
 public:
  // `path` empty: stderr. A file that cannot be opened: stderr, which then says so.
  Log(const std::string& path, bool debug);
  // As moult_vm_options.log.
  void Write(int level, const std::string& message) const;

 private:
  int fd_ = 2;
  bool debug_;
};

}  // namespace moult::qemu

#endif  // MOULT_ADAPTERS_QEMU_LOG_H_
