// SPDX-License-Identifier: Apache-2.0
//
// The numbers of the template format. spec.md is normative; this is the same table in C++.
#ifndef MOULT_PROTOCOL_LIMITS_H_
#define MOULT_PROTOCOL_LIMITS_H_

#include <cstddef>
#include <cstdint>

namespace moult::image {

inline constexpr uint32_t kFormatVersion = 2;        // of what is written
inline constexpr uint32_t kOldestFormatVersion = 1;  // that is still read
inline constexpr uint32_t kNone = 4294967295;  // an index that names nothing
inline constexpr uint64_t kPageSize = 4096;          // of the format: what offsets and lengths are multiples of
inline constexpr uint64_t kMaxPageSize = 64 * 1024;  // of a kernel that a template may be for
inline constexpr uint64_t kPagesChunk = 256 * 1024;  // bytes per leaf of the digest tree

// The files of a template folder.
inline constexpr char kManifestFile[] = "manifest";
inline constexpr char kImageFile[] = "image";
inline constexpr char kPagesFile[] = "pages";

// What a reader takes in before it has checked anything: bounds for memory and time.
inline constexpr uint64_t kMaxManifestPayload = 64ull << 20;
inline constexpr uint64_t kMaxImageSize = 512ull << 20;
inline constexpr uint64_t kMaxPagesSize = 256ull << 30;
inline constexpr uint32_t kMaxDepth = 16;  // nesting of tables and vectors
inline constexpr uint32_t kMaxTables = 4000000;

// What ValidateImage allows. kUserEnd is the end of the address space with four-level page tables.
inline constexpr uint64_t kUserEnd = 0x7ffffffff000;
inline constexpr int32_t kMaxPid = 1 << 22;  // PID_MAX_LIMIT
inline constexpr int32_t kMaxFd = 1 << 20;
inline constexpr size_t kMaxThreads = 32768;
inline constexpr size_t kMaxVmas = 1 << 18;
inline constexpr size_t kMaxOpenFiles = 1 << 20;
inline constexpr size_t kMaxFiles = 1 << 20;
inline constexpr size_t kMaxObjects = 1 << 16;
// The folders of which a sandbox can have its own, so that what is in them belongs to the template.
inline constexpr const char* kPrivateFolders[] = {"/tmp", "/dev/shm"};
inline constexpr size_t kMaxPrivateFiles = 1 << 15;
inline constexpr size_t kMaxPipes = 1 << 20;
inline constexpr size_t kMaxPending = 1 << 16;  // per queue
inline constexpr size_t kMaxTimers = 1 << 16;
inline constexpr size_t kMaxFilters = 4096;
inline constexpr size_t kMaxFilterBytes = 4096 * 8;  // BPF_MAXINSNS
inline constexpr size_t kMaxGroups = 65536;          // NGROUPS_MAX
inline constexpr size_t kMaxAdvice = 64;
inline constexpr size_t kMaxSocketOptions = 256;
inline constexpr size_t kMaxOptionBytes = 4096;
inline constexpr size_t kMaxMessageFds = 253;  // SCM_MAX_FD
inline constexpr size_t kMaxLocks = 1 << 16;
inline constexpr size_t kMaxNotes = 1024;
inline constexpr size_t kMaxTenant = 64;
inline constexpr size_t kMaxFunctionSpec = 4 << 20;
inline constexpr size_t kMaxPath = 4096;   // PATH_MAX
inline constexpr size_t kMaxVmaName = 79;  // ANON_VMA_NAME_MAX_LEN less its NUL
inline constexpr size_t kMaxSunPath = 108;
inline constexpr size_t kMinXsave = 512 + 64;  // legacy area and header
inline constexpr size_t kMaxXsave = 16384;
inline constexpr size_t kMaxAuxv = 1024;
inline constexpr size_t kMaxAffinity = 8192;
inline constexpr int kMaxEpollDepth = 5;  // EP_MAX_NESTS is 4

}  // namespace moult::image

#endif  // MOULT_PROTOCOL_LIMITS_H_
