// SPDX-License-Identifier: Apache-2.0
#include "moult/base/status.h"
#include "moult/protocol/function_spec.h"
#include "moult/protocol/digest.h"
#include "moult/protocol/limits.h"
#include "validate_internal.h"

namespace moult::rpc::validate {
namespace {

absl::Status Check(const Path& at, const HelloT& hello) {
  if (hello.version_min > hello.version_max) {
    return at.BadField("version_min", hello.version_min, " is over version_max ", hello.version_max);
  }
  return CheckText(at, "client", hello.client, kMaxShortText);
}

absl::Status Check(const Path& at, const RunT& run) {
  if (run.spec == nullptr) return at.BadField("spec", "missing");
  return CheckSpec(Path(at, "spec"), *run.spec);
}

absl::Status Check(const Path& at, const CaptureT& capture) {
  if (!InRange(capture.mode, PageMode::MAX)) {
    return at.BadField("mode", static_cast<int>(capture.mode), " is unknown");
  }
  return absl::OkStatus();
}

absl::Status Check(const Path& at, const CaptureEndT& end) {
  if (!InRange(end.outcome, CaptureOutcome::MAX)) {
    return at.BadField("outcome", static_cast<int>(end.outcome), " is unknown");
  }
  return absl::OkStatus();
}

absl::Status Check(const Path& at, const AttachT& attach) {
  if (!IsName(attach.name)) return at.BadField("name", "is not 1 to 64 of [A-Za-z0-9._-]");
  if (attach.spec == nullptr) return at.BadField("spec", "missing");
  MOULT_RETURN_IF_ERROR(CheckSpec(Path(at, "spec"), *attach.spec));
  if (!attach.digest.empty() && attach.digest.size() != sizeof(image::Sha256Digest)) {
    return at.BadField("digest", attach.digest.size(), " bytes, not ", sizeof(image::Sha256Digest));
  }
  // In short: the agent keeps the template.
  const bool in_short = attach.image.empty() && attach.manifest.empty() && !attach.digest.empty() &&
                        attach.source == PageSource::Window;
  if (attach.image.empty() && !in_short) return at.BadField("image", "empty");
  if (attach.manifest.empty() && !in_short) return at.BadField("manifest", "empty");
  if (!InRange(attach.source, PageSource::MAX)) {
    return at.BadField("source", static_cast<int>(attach.source), " is unknown");
  }
  if (!PageAligned(attach.pages_size) || attach.pages_size > image::kMaxPagesSize) {
    return at.BadField("pages_size", attach.pages_size, " is not whole pages, or over the limit");
  }
  if (attach.source != PageSource::Window) return absl::OkStatus();
  if (!PageAligned(attach.window_offset)) return at.BadField("window_offset", "not page aligned");
  if (attach.window_offset > UINT64_MAX - attach.pages_size) {
    return at.BadField("window_offset", attach.window_offset, " + ", attach.pages_size, " wraps around");
  }
  return absl::OkStatus();
}

absl::Status Check(const Path& at, const ReleaseT& release) {
  if (!PageAligned(release.offset)) return at.BadField("offset", release.offset, " is not page aligned");
  if (release.length == 0 || !PageAligned(release.length)) {
    return at.BadField("length", release.length, " is not whole pages");
  }
  if (release.offset > UINT64_MAX - release.length) {
    return at.BadField("offset", release.offset, " + ", release.length, " wraps around");
  }
  return absl::OkStatus();
}

// The rest have nothing but a function, which is checked for all, or nothing at all.
template <typename T>
absl::Status Check(const Path&, const T&) {
  return absl::OkStatus();
}

template <typename T>
absl::Status CheckBody(const Path& at, const T& body) {
  if constexpr (requires { body.function; }) {
    if (body.function == 0) return at.BadField("function", "0 names no function");
  }
  return Check(at, body);
}

}  // namespace

absl::Status CheckRequest(const RequestT& request) {
  if (request.deadline_ms > kMaxTimeoutMs) {
    return Path("request").BadField("deadline_ms", request.deadline_ms, " is over the limit of ",
                                    kMaxTimeoutMs);
  }
  const RequestBodyUnion& body = request.body;
  if (body.value == nullptr) return Path("request").BadField("body", "missing");
  const Path top("request");
  const Path at(top, EnumNameRequestBody(body.type));
  switch (body.type) {
    case RequestBody::Hello:
      return CheckBody(at, *body.AsHello());
    case RequestBody::Run:
      return CheckBody(at, *body.AsRun());
    case RequestBody::Freeze:
      return CheckBody(at, *body.AsFreeze());
    case RequestBody::Thaw:
      return CheckBody(at, *body.AsThaw());
    case RequestBody::Kill:
      return CheckBody(at, *body.AsKill());
    case RequestBody::Forget:
      return CheckBody(at, *body.AsForget());
    case RequestBody::Capture:
      return CheckBody(at, *body.AsCapture());
    case RequestBody::CaptureEnd:
      return CheckBody(at, *body.AsCaptureEnd());
    case RequestBody::Detach:
      return CheckBody(at, *body.AsDetach());
    case RequestBody::Attach:
      return CheckBody(at, *body.AsAttach());
    case RequestBody::Tunnel:
      return CheckBody(at, *body.AsTunnel());
    case RequestBody::Logs:
      return CheckBody(at, *body.AsLogs());
    case RequestBody::Release:
      return CheckBody(at, *body.AsRelease());
    default:  // List, Doctor, DetachEnd: any value of theirs is good.
      return absl::OkStatus();
  }
}

}  // namespace moult::rpc::validate
