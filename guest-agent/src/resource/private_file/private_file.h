// SPDX-License-Identifier: Apache-2.0
//
// What is in the folders that only the process's sandbox has (image::kPrivateFolders): every folder, file, link and
// FIFO, with content. Sockets are left to whoever is bound to them.
#ifndef MOULT_RESOURCE_PRIVATE_FILE_PRIVATE_FILE_H_
#define MOULT_RESOURCE_PRIVATE_FILE_PRIVATE_FILE_H_

#include <functional>

#include "image/capture_context.h"
#include "image/page_source.h"

namespace moult::engine {

class Sandbox;

// Nothing, for a process that sees the folders that this one sees. After all that uses files is captured.
absl::Status CapturePrivateFiles(CaptureContext& context, const std::function<bool()>& may_go_on);

// Fills the folders of a new sandbox, which must have its own. Before anything that opens files in them.
// Memory is charged to `cgroup` (a descriptor), -1: the caller's.
absl::Status RestorePrivateFiles(const image::ProcessImageT& image, const PageSource& pages, const Sandbox* sandbox, int cgroup = -1);

}  // namespace moult::engine

#endif  // MOULT_RESOURCE_PRIVATE_FILE_PRIVATE_FILE_H_
