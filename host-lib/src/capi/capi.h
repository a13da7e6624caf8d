// SPDX-License-Identifier: Apache-2.0
//
// What every C call does around its work: errors into the thread's last error, exceptions stopped, option
// structures of other versions taken in.
#ifndef MOULT_HOST_CAPI_CAPI_H_
#define MOULT_HOST_CAPI_CAPI_H_

#include <cxxabi.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <new>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "moult/moult.h"
#include "pool/file/store.h"
#include "session/vm.h"

struct moult_store {
  std::shared_ptr<moult::host::Store> store;
};

struct moult_vm {
  std::shared_ptr<moult::host::Vm*> link;  // to `vm`; null inside once it is closed
  std::unique_ptr<moult::host::Vm> vm;
};

struct moult_op {
  std::shared_ptr<moult::host::Op> op;
  std::shared_ptr<moult::host::Vm*> link;  // to its vm
};

namespace moult::capi {

// Sets the thread's last error and gives the -errno that goes with it; 0 for OK.
int Report(const absl::Status& status);
int Report(int error, absl::StatusCode code, const char* message);

// Runs `call`, which returns an absl::Status, with nothing thrown out of it, but for what unwinds a thread that ends
// (pthread_exit, pthread_cancel): who stops that ends the process.
template <typename F>
int Guarded(F call) {
  try {
    return Report(call());
  } catch (const std::bad_alloc&) {
    return Report(absl::ResourceExhaustedError("out of memory"));
  } catch (const abi::__forced_unwind&) {
    throw;
  } catch (...) {
    return Report(absl::InternalError("exception inside the library"));
  }
}

// `given` as this version of the library knows it: what an older caller does not have is zero, and what a
// newer one has must be zero. The oldest structures had everything up to and with `required`.
template <typename T>
absl::StatusOr<T> TakeOptions(const T* given, const char* what, size_t required = sizeof(size_t)) {
  T ours;
  std::memset(&ours, 0, sizeof(ours));
  if (given == nullptr) return absl::InvalidArgumentError(absl::StrCat(what, " is NULL"));
  const size_t size = given->size;
  if (size < required || size > 65536) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, ": size is ", size, "; set it to sizeof the structure (MOULT_INIT)"));
  }
  std::memcpy(&ours, given, std::min(size, sizeof(T)));
  const char* bytes = reinterpret_cast<const char*>(given);
  for (size_t i = sizeof(T); i < size; ++i) {
    if (bytes[i] != 0) {
      return absl::UnimplementedError(
          absl::StrCat(what, ": has members that this version of the library does not know"));
    }
  }
  ours.size = sizeof(T);
  return ours;
}

inline std::string Text(const char* text) { return text != nullptr ? text : ""; }

// A copy that moult_free() frees.
absl::Status GiveText(const std::string& text, char** to);

}  // namespace moult::capi

#endif  // MOULT_HOST_CAPI_CAPI_H_
