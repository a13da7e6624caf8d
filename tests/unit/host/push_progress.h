// SPDX-License-Identifier: Apache-2.0
//
// What a push tells of how far it is, and a template that takes several steps to push.
#ifndef MOULT_TESTS_UNIT_HOST_PUSH_PROGRESS_H_
#define MOULT_TESTS_UNIT_HOST_PUSH_PROGRESS_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/uio.h>

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "../protocol/sample_image.h"
#include "absl/status/status.h"
#include "moult/moult.h"
#include "moult/pool.h"
#include "moult/protocol/limits.h"
#include "moult/protocol/template_writer.h"
#include "pool/transfer_progress.h"

namespace moult::host::testing {

inline constexpr uint64_t kBigBytes = (9 << 20) + image::kPageSize;  // steps are of 4 MiB

// In a folder that is not there yet.
inline absl::Status WriteBigTemplate(const std::string& folder) {
  auto writer = image::TemplateWriter::Create(folder);
  if (!writer.ok()) return writer.status();
  std::vector<uint64_t> pages(kBigBytes / sizeof(uint64_t));
  for (size_t i = 0; i < pages.size(); ++i) pages[i] = i;
  const struct iovec part = {pages.data(), kBigBytes};
  const auto appended = (*writer)->AppendPages({&part, 1});
  if (!appended.ok()) return appended.status();
  return (*writer)->Commit(image::sample::Image(), image::sample::Manifest());
}

class ToldProgress {
 public:
  // Of moult_pool_options, with this as its `user`.
  static void Tell(void* user, uint64_t done, uint64_t total) {
    auto* const self = static_cast<ToldProgress*>(user);
    self->done_.push_back(done);
    self->totals_.push_back(total);
  }
  TransferProgress teller() {
    return [this](uint64_t done, uint64_t total) { Tell(this, done, total); };
  }
  // More each time, and all in the end.
  void ExpectGrownTo(uint64_t all) const {
    ASSERT_GT(done_.size(), 1u) << "it was told of in one step, or not at all";
    EXPECT_THAT(totals_, ::testing::Each(all));
    uint64_t before = 0;
    for (const uint64_t done : done_) {
      EXPECT_GT(done, before);
      before = done;
    }
    EXPECT_EQ(before, all);
  }

 private:
  std::vector<uint64_t> done_;
  std::vector<uint64_t> totals_;
};

// To the pool at `uri`, which is empty and has room: by who wants to know how far it is, and by who does not.
inline void ExpectPushTells(moult_store* store, const std::string& folder, const std::string& uri) {
  const absl::Status written = WriteBigTemplate(folder);
  ASSERT_TRUE(written.ok()) << written;
  ASSERT_EQ(moult_store_import(store, "big", folder.c_str(), nullptr), 0) << moult_last_error();
  ToldProgress told;
  moult_pool_options options = MOULT_INIT(options);
  options.progress = ToldProgress::Tell;
  options.user = &told;
  for (const moult_pool_options* given : std::initializer_list<const moult_pool_options*>{&options, nullptr}) {
    moult_pool* pool = nullptr;
    ASSERT_EQ(moult_pool_open(uri.c_str(), given, &pool), 0) << moult_last_error();
    EXPECT_EQ(moult_pool_push(pool, store, "big"), 0) << moult_last_error();
    moult_pool_close(pool);
    // By another, since a verify tells, too.
    ASSERT_EQ(moult_pool_open(uri.c_str(), nullptr, &pool), 0) << moult_last_error();
    EXPECT_EQ(moult_pool_verify(pool, "big"), 0) << moult_last_error();
    EXPECT_EQ(moult_pool_remove(pool, "big"), 0) << moult_last_error();
    moult_pool_close(pool);
  }
  told.ExpectGrownTo(kBigBytes);
}

}  // namespace moult::host::testing

#endif  // MOULT_TESTS_UNIT_HOST_PUSH_PROGRESS_H_
