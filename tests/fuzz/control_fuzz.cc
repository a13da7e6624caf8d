// SPDX-License-Identifier: Apache-2.0
//
// What a client writes to the control socket, as far as the calls that it becomes; the errors that moultctl
// reads back; and the adapter's settings. A stand-in for libmoult takes the calls.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "../control/fake_moult.h"
#include "control/message.h"
#include "control/methods.h"
#include "moult/moult.h"
#include "qemu/settings.h"

namespace {

namespace control = moult::control;
namespace fake = moult::fake;

control::Target TheTarget() {
  static const control::Target target = [] {
    control::Target made;
    moult_vm_options options = MOULT_INIT(options);
    if (moult_vm_create(&options, &made.vm) != 0 || moult_store_open("/", nullptr, &made.store) != 0)
      std::abort();
    return made;
  }();
  return target;
}

// Starts what the request asks for, and has it end.
void Call(const control::Request& request) {
  fake::Reset();
  fake::Release();
  auto call = control::Start(TheTarget(), request.method, request.params, moult_init<moult_op_options>());
  if (!call.ok()) return;
  if (call->disk) {
    (void)call->disk().status();
    return;
  }
  const bool ended = moult_op_wait(call->op, -1) == 0;
  control::Json detail;
  (void)control::Outcome(call->op, &detail);
  if (call->stream && ended) (void)fake::TakeFarEnd();
  moult_op_free(call->op);
  if (fake::LiveOps() != 0) std::abort();
}

void Line(std::string_view bytes) {
  const auto request = control::ParseRequest(bytes);
  if (!request.ok()) return;
  // Its answer can be read by who wrote it.
  if (!control::ParseJson(control::ResultLine(request->id, request->params)).ok()) std::abort();
  Call(*request);
}

void Error(std::string_view bytes) {
  const auto error = control::ParseJson(bytes);
  if (error.ok() && control::ErrorFromJson(*error).ok()) std::abort();
}

void Settings(std::string_view bytes) {
  moult::qemu::Settings settings;
  const absl::Status status = moult::qemu::ParseSettings(bytes, &settings);
  if (status.ok() && (settings.control.empty() || settings.vsock.empty())) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // SAFETY: reads the fuzzer's own buffer as char.
  const std::string_view bytes(reinterpret_cast<const char*>(data + 1), size - 1);
  constexpr void (*kParsers[])(std::string_view) = {Line, Error, Settings};
  kParsers[data[0] % std::size(kParsers)](bytes);
  return 0;
}
