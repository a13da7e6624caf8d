// SPDX-License-Identifier: Apache-2.0
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "pool/rdma/messages.h"

namespace moult::host::rdma {
namespace {

using ::testing::HasSubstr;

const std::vector<Request>& Requests() {
  static const std::vector<Request> all = {Hello{{1, 2}}, Proof{{3}},    List{"after"},
                                           Open{"name"},  Use{},         Remove{"name"},
                                           PushBegin{"name", {8192, 5, 6}}, PushCommit{},
                                           Borrow{8192},  Renew{{4}},     GiveBack{{5}}};
  return all;
}

const std::vector<Reply>& Replies() {
  static const std::vector<Reply> all = {
      Challenge{{7}},
      Welcome{{8}},
      Entries{{{"a", {1}, 10}, {"b", {2}, 20}}, true},
      Opened{{9}, {4096, 77, {4096, 100, 200}}},
      Used{1, 2, 3, 4, 5},
      PushTo{{0, 5, {0, 1, 1}}},
      Done{},
      Failure{absl::StatusCode::kNotFound, "no template x"},
      Lent{{6}, 4096, 78, 8192}};
  return all;
}

template <typename Content, typename Parse>
void ExpectSameAfter(const std::vector<Content>& all, Parse parse) {
  for (const Content& content : all) {
    const std::string bytes = Encode(Message<Content>{42, content});
    const auto parsed = parse(bytes);
    ASSERT_TRUE(parsed.ok()) << content.index() << ": " << parsed.status();
    EXPECT_EQ(parsed->number, 42u);
    EXPECT_EQ(parsed->content.index(), content.index());
    EXPECT_EQ(Encode(*parsed), bytes);
  }
}

TEST(RdmaMessages, Messages_ComeOutAsTheyWentIn) {
  ExpectSameAfter(Requests(), ParseRequest);
  ExpectSameAfter(Replies(), ParseReply);
}

TEST(RdmaMessages, Parse_RefusesEveryOtherLength) {
  for (const Reply& reply : Replies()) {
    const std::string whole = Encode(Message<Reply>{1, reply});
    for (size_t size = 0; size < whole.size(); ++size) {
      std::string cut = whole.substr(0, size);
      EXPECT_FALSE(ParseReply(cut).ok());
      if (size >= 16) {  // Also where the header says that it is all.
        cut[8] = static_cast<char>(size);
        cut[9] = static_cast<char>(size >> 8);
        EXPECT_FALSE(ParseReply(cut).ok()) << reply.index() << " of " << size;
      }
    }
    std::string longer = whole + '\0';
    longer[8] = static_cast<char>(longer.size());
    longer[9] = static_cast<char>(longer.size() >> 8);
    const auto parsed = ParseReply(longer);
    EXPECT_TRUE(absl::IsInvalidArgument(parsed.status()));
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("longer than its fields"));
  }
}

// What a memory node may be sent by anybody who can connect to it.
TEST(RdmaMessages, Parse_RefusesMalformedRequests) {
  for (const Request& request : Requests()) {
    const std::string whole = Encode(Message<Request>{1, request});
    for (size_t size = 0; size < whole.size(); ++size) {
      std::string cut = whole.substr(0, size);
      EXPECT_FALSE(ParseRequest(cut).ok());
      if (size < 16) continue;
      cut[8] = static_cast<char>(size);
      cut[9] = static_cast<char>(size >> 8);
      EXPECT_FALSE(ParseRequest(cut).ok()) << request.index() << " of " << size;
    }
    EXPECT_FALSE(ParseRequest(whole + '\0').ok()) << request.index();
    for (const size_t at : {0u, 3u, 4u, 6u, 7u, 8u}) {
      std::string changed = whole;
      changed[at] ^= 0x40;
      EXPECT_FALSE(ParseRequest(changed).ok()) << request.index() << " with another byte " << at;
    }
  }
  EXPECT_FALSE(ParseRequest(std::string(kMaxMessage + 1, 'M')).ok());
  const auto refused = [](const Request& request, const char* why) {
    const auto parsed = ParseRequest(Encode(Message<Request>{1, request}));
    ASSERT_TRUE(absl::IsInvalidArgument(parsed.status())) << why;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(why));
  };
  refused(Open{"a\tb"}, "not printable");
  refused(Remove{std::string("a\0b", 3)}, "not printable");
  for (const Layout& layout : {Layout{4097, 1, 1}, Layout{UINT64_MAX / 4096 * 4096, 1, 1}, Layout{0, UINT64_MAX, 1},
                               Layout{0, 1, UINT64_MAX}, Layout{0, 0, 1}, Layout{0, 1, 0}}) {
    refused(PushBegin{"t", layout}, "beyond what a template can have");
  }
  for (const uint64_t bytes : {uint64_t{0}, uint64_t{100}, uint64_t{4097}, kMostLent + 4096, UINT64_MAX / 4096 * 4096}) {
    refused(Borrow{bytes}, "not of whole pages, or too large");
  }
  // A name's length beyond the limit, and beyond the message.
  for (const uint16_t length : {uint16_t{kMaxName + 1}, uint16_t{60}, uint16_t{UINT16_MAX}}) {
    std::string lies = Encode(Message<Request>{1, Open{"name"}});
    lies[16] = static_cast<char>(length);
    lies[17] = static_cast<char>(length >> 8);
    EXPECT_TRUE(absl::IsInvalidArgument(ParseRequest(lies).status())) << length;
  }
}

TEST(RdmaMessages, Parse_TakesOnlyItsOwnDirection) {
  EXPECT_FALSE(ParseReply(Encode(Message<Request>{1, Use{}})).ok());
  EXPECT_FALSE(ParseRequest(Encode(Message<Reply>{1, Done{}})).ok());
}

TEST(RdmaMessages, Parse_TellsOfAnotherVersion) {
  std::string bytes = Encode(Message<Request>{1, Use{}});
  bytes[4] = 1;
  const auto parsed = ParseRequest(bytes);
  EXPECT_TRUE(absl::IsFailedPrecondition(parsed.status()));
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("speaks version 1, this one 2"));
}

TEST(RdmaMessages, Parse_RefusesValuesThatLie) {
  const auto refused = [](const Reply& reply, const char* why) {
    const auto parsed = ParseReply(Encode(Message<Reply>{1, reply}));
    ASSERT_TRUE(absl::IsInvalidArgument(parsed.status())) << why;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(why));
  };
  refused(Entries{{{"b", {}, 0}, {"a", {}, 0}}, false}, "names do not rise");
  refused(Entries{{{"a", {}, 0}, {"a", {}, 0}}, false}, "names do not rise");
  refused(Entries{{}, true}, "more is to come after nothing");
  refused(Opened{{}, {UINT64_MAX - 4096, 1, {4096, 1, 1}}}, "does not fit into the address space");
  refused(Opened{{}, {0, 1, {4097, 1, 1}}}, "beyond what a template can have");
  refused(Opened{{}, {0, 1, {UINT64_MAX / 4096 * 4096, 1, 1}}}, "beyond what a template can have");
  refused(Opened{{}, {0, 1, {0, 0, 1}}}, "beyond what a template can have");
  refused(Lent{{}, UINT64_MAX - 4096, 1, 8192}, "does not fit into the address space");
  refused(Lent{{}, 0, 1, 0}, "not of whole pages, or too large");
  refused(Failure{absl::StatusCode::kOk, ""}, "code is unknown");
  refused(Failure{absl::StatusCode::kInternal, "a\nb"}, "not printable");
}

TEST(RdmaMessages, FailureOf_IsFitToBeSent) {
  const Failure failure = FailureOf(absl::InternalError("a\nb" + std::string(5000, 'x')));
  EXPECT_EQ(failure.text.substr(0, 3), "a?b");
  EXPECT_TRUE(ParseReply(Encode(Message<Reply>{1, failure})).ok());
}

TEST(RdmaMessages, Entries_FitIntoAMessage_WhateverTheirNames) {
  Entries full;
  for (size_t i = 0; i < kMaxEntries; ++i) full.entries.push_back({std::string(kMaxName - 1, 'x') + static_cast<char>('0' + i), {}, 1});
  const std::string bytes = Encode(Message<Reply>{1, full});
  EXPECT_LE(bytes.size(), kMaxMessage);
  EXPECT_TRUE(ParseReply(bytes).ok());
}

TEST(RdmaMessages, Introduction_MayBePadded_WithZerosAlone) {
  const std::string bytes = Encode(Introduction{{1, 2, 3}});
  ASSERT_EQ(bytes.size(), kIntroductionSize);
  const auto parsed = ParseIntroduction(bytes + std::string(32, '\0'));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->tenant[2], 3);
  EXPECT_FALSE(ParseIntroduction(bytes + std::string(31, '\0') + 'x').ok());
  EXPECT_FALSE(ParseIntroduction(bytes.substr(1)).ok());
  EXPECT_FALSE(ParseIntroduction("").ok());
}

TEST(RdmaMessages, Layout_PutsEachFileOnAPage) {
  const Layout layout{8192, 5000, 100};
  EXPECT_EQ(layout.image_at(), 8192u);
  EXPECT_EQ(layout.manifest_at(), 16384u);
  EXPECT_EQ(layout.digests_at(), 20480u);
  EXPECT_EQ(layout.digests(), 64u);
  EXPECT_EQ(layout.length(), 24576u);
  EXPECT_EQ((Layout{0, 1, 1}.length()), 8192u);
}

}  // namespace
}  // namespace moult::host::rdma
