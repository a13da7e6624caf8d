// SPDX-License-Identifier: Apache-2.0
#include "image/host.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace moult::engine {
namespace {

using testing::AllOf;
using testing::HasSubstr;

image::RequirementsT Machine() {
  image::RequirementsT machine;
  machine.arch = "x86_64";
  machine.page_size = 4096;
  machine.kernel_release = "6.1.0";
  machine.vdso_digest.assign(32, 0x11);
  machine.xsave_features = 7;
  machine.xsave_size = 832;
  machine.cpu_flags = {"avx", "avx2", "popcnt"};
  return machine;
}

void ExpectRefused(const image::RequirementsT& wanted, const image::RequirementsT& host,
                   const testing::Matcher<std::string>& message) {
  const absl::Status status = CheckRequirements(wanted, host);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("template does not fit"), HasSubstr("capture the function"), message));
}

TEST(CheckRequirements_Accepts, WhenTheMachineIsTheSame) {
  EXPECT_EQ(CheckRequirements(Machine(), Machine()), absl::OkStatus());
}

TEST(CheckRequirements_Accepts, WhenTheMachineHasMoreInstructions) {
  image::RequirementsT host = Machine();
  host.cpu_flags.push_back("avx512f");
  EXPECT_EQ(CheckRequirements(Machine(), host), absl::OkStatus());
}

// The vdso is what a process depends on; a release that differs in name only is none of its business.
TEST(CheckRequirements_Accepts, WhenOnlyTheReleaseDiffers) {
  image::RequirementsT host = Machine();
  host.kernel_release = "6.1.1";
  EXPECT_EQ(CheckRequirements(Machine(), host), absl::OkStatus());
}

TEST(CheckRequirements_Refuses, WhenTheArchDiffers) {
  image::RequirementsT wanted = Machine();
  wanted.arch = "aarch64";
  ExpectRefused(wanted, Machine(), AllOf(HasSubstr("aarch64"), HasSubstr("x86_64")));
}

TEST(CheckRequirements_Refuses, WhenThePageSizeDiffers) {
  image::RequirementsT wanted = Machine();
  wanted.page_size = 16384;
  ExpectRefused(wanted, Machine(), AllOf(HasSubstr("page size 16384"), HasSubstr("4096")));
}

TEST(CheckRequirements_Refuses, WhenTheVdsoDiffers) {
  image::RequirementsT host = Machine();
  host.vdso_digest.back() ^= 1;
  host.kernel_release = "6.12.0";
  ExpectRefused(Machine(), host, AllOf(HasSubstr("vdso of kernel 6.1.0"), HasSubstr("6.12.0")));
}

TEST(CheckRequirements_Refuses, WhenInstructionsAreMissing) {
  image::RequirementsT host = Machine();
  host.cpu_flags = {"avx"};
  ExpectRefused(Machine(), host, HasSubstr("this CPU lacks avx2, popcnt"));
}

TEST(CheckRequirements_Refuses, WhenTheXsaveLayoutDiffers) {
  image::RequirementsT host = Machine();
  host.xsave_features = 0xe7;
  ExpectRefused(Machine(), host, AllOf(HasSubstr("XSAVE"), HasSubstr("0x7"), HasSubstr("0xe7")));
  host = Machine();
  host.xsave_size = 2696;
  ExpectRefused(Machine(), host, AllOf(HasSubstr("XSAVE"), HasSubstr("832"), HasSubstr("2696")));
}

TEST(DescribeHost_TellsWhatItRunsOn, WhenAsked) {
  const auto host = DescribeHost();
  ASSERT_TRUE(host.ok()) << host.status();
  EXPECT_EQ((*host)->arch, "x86_64");
  EXPECT_EQ((*host)->page_size, 4096u);
  EXPECT_EQ((*host)->vdso_digest.size(), 32u);
  EXPECT_GE((*host)->xsave_size, 576u);
  EXPECT_EQ((*host)->xsave_features & 3, 3u);  // x87 and SSE are always there
  EXPECT_EQ(CheckRequirements(**host, **host), absl::OkStatus());
}

}  // namespace
}  // namespace moult::engine
