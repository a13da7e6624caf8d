// SPDX-License-Identifier: Apache-2.0
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <random>

#include "moult/protocol/digest.h"
#include "moult/protocol/parse.h"
#include "moult/protocol/template_json.h"
#include "moult/protocol/template_reader.h"
#include "moult/protocol/template_writer.h"
#include "sample_image.h"

namespace moult::image {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

std::string Read(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

void Write(const fs::path& path, const std::string& content) {
  fs::remove(path);
  std::ofstream(path, std::ios::binary) << content;
}

std::vector<std::string> Names(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  return names;
}

std::string Message(const absl::Status& status) { return std::string(status.message()); }

class TemplateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "moult-template-XXXXXX").string();
    ASSERT_NE(mkdtemp(pattern.data()), nullptr);
    root_ = pattern;
    dir_ = root_ / "template";
  }
  void TearDown() override { fs::remove_all(root_); }

  absl::Status WriteSample(const std::string& dir, WriterOptions options = {}) {
    auto writer = TemplateWriter::Create(dir, options);
    if (!writer.ok()) return writer.status();
    std::vector<uint8_t> pages = sample::Pages();
    // In uneven parts, so that appends and chunks do not coincide.
    uint64_t expected = 0;
    for (size_t step = 1; expected < pages.size(); ++step) {
      const size_t length = std::min(step * kPageSize, pages.size() - expected);
      const struct iovec parts[] = {{pages.data() + expected, 100},
                                    {pages.data() + expected + 100, length - 100}};
      auto offset = (*writer)->AppendPages(parts);
      if (!offset.ok()) return offset.status();
      EXPECT_EQ(*offset, expected);
      expected += length;
    }
    return (*writer)->Commit(sample::Image(), sample::Manifest());
  }

  // Open, and if that is OK the content too.
  static absl::Status OpenAndVerify(const std::string& dir) {
    auto reader = TemplateReader::Open(dir);
    return reader.ok() ? (*reader)->VerifyPages() : reader.status();
  }

  fs::path root_;
  fs::path dir_;
};

TEST_F(TemplateTest, Reader_ReturnsWhatWasWritten_WhenCommitted) {
  ASSERT_TRUE(WriteSample(dir_).ok());
  EXPECT_THAT(Names(dir_), UnorderedElementsAre("manifest", "image", "pages"));
  EXPECT_THAT(Names(root_), UnorderedElementsAre("template"));
  auto reader = TemplateReader::Open(dir_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ(SerializeImage((*reader)->image()), SerializeImage(sample::Image()));
  EXPECT_EQ((*reader)->manifest().threads, 2u);
  EXPECT_EQ((*reader)->manifest().user_state_bytes, 0x42000u);
  EXPECT_TRUE((*reader)->VerifyPages().ok());
  const std::vector<uint8_t> pages = sample::Pages();
  for (const auto& [offset, length] : {std::pair<size_t, size_t>{0, pages.size()},
                                       {5, 10},
                                       {262140, 9},
                                       {262144, 24576},
                                       {pages.size(), 0}}) {
    std::vector<std::byte> out(length);
    ASSERT_TRUE((*reader)->ReadPages(offset, absl::MakeSpan(out)).ok());
    EXPECT_TRUE(
        std::equal(out.begin(), out.end(), reinterpret_cast<const std::byte*>(pages.data()) + offset));
  }
  std::vector<std::byte> one(2);
  const absl::Status past = (*reader)->ReadPages(pages.size() - 1, absl::MakeSpan(one));
  EXPECT_EQ(past.code(), absl::StatusCode::kOutOfRange);
  EXPECT_THAT(Message(past), HasSubstr("past the end"));
}

TEST_F(TemplateTest, Writer_MakesTheSameTemplate_WhenFilesHaveNamesOrHashingWaits) {
  for (const bool nameless : {true, false}) {
    for (const bool background : {true, false}) {
      const fs::path dir = root_ / (nameless ? "nameless" : "named") / (background ? "a" : "b");
      fs::create_directories(dir.parent_path());
      ASSERT_TRUE(WriteSample(dir, {nameless, background}).ok());
      EXPECT_EQ(Names(dir.parent_path()).size(), background ? 1u : 2u);
      EXPECT_EQ(OpenAndVerify(dir), absl::OkStatus());
    }
  }
  EXPECT_EQ(Read(root_ / "nameless/a/manifest"), Read(root_ / "named/b/manifest"));
}

TEST_F(TemplateTest, Writer_LeavesNothing_WhenNotCommitted) {
  for (const bool nameless : {true, false}) {
    auto writer = TemplateWriter::Create(dir_, {nameless, true});
    ASSERT_TRUE(writer.ok()) << writer.status();
    std::vector<uint8_t> page(kPageSize);
    const struct iovec part = {page.data(), page.size()};
    ASSERT_TRUE((*writer)->AppendPages({&part, 1}).ok());
    EXPECT_EQ(Names(root_).size(), nameless ? 0u : 1u);
    writer->reset();
    EXPECT_TRUE(fs::is_empty(root_));
  }
}

TEST_F(TemplateTest, Writer_LeavesNothing_WhenKilled) {
  const pid_t child = fork();
  if (child == 0) {
    auto writer = TemplateWriter::Create(dir_);
    std::vector<uint8_t> pages(1 << 20);
    const struct iovec part = {pages.data(), pages.size()};
    if (writer.ok() && (*writer)->AppendPages({&part, 1}).ok()) raise(SIGKILL);
    _exit(1);
  }
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFSIGNALED(status));
  EXPECT_TRUE(fs::is_empty(root_));
}

TEST_F(TemplateTest, Writer_FillsTheFolder_WhenItIsThereAndEmpty) {
  fs::create_directory(dir_);
  ASSERT_EQ(chmod(dir_.c_str(), 0750), 0);
  ASSERT_TRUE(WriteSample(dir_.string() + "/").ok());
  struct stat info;
  ASSERT_EQ(stat(dir_.c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0750u);
  EXPECT_EQ(OpenAndVerify(dir_), absl::OkStatus());
}

TEST_F(TemplateTest, Writer_LinksIntoTheFolder_WhenItCannotBeReplaced) {
  fs::create_directory(dir_);
  const fs::path before = fs::current_path();
  for (const bool nameless : {true, false}) {
    fs::current_path(dir_);
    const absl::Status status = WriteSample(".", {nameless, true});
    fs::current_path(before);
    ASSERT_EQ(status, absl::OkStatus());
    EXPECT_EQ(OpenAndVerify(dir_), absl::OkStatus());
    for (const std::string& name : Names(dir_)) fs::remove(dir_ / name);
  }
  EXPECT_THAT(Names(root_), UnorderedElementsAre("template"));
}

TEST_F(TemplateTest, Writer_FollowsTheLink_WhenTheFolderIsNamedByOne) {
  fs::create_directory(root_ / "real");
  fs::create_directory_symlink("real", dir_);
  ASSERT_TRUE(WriteSample(dir_).ok());
  EXPECT_TRUE(fs::is_symlink(dir_));
  EXPECT_EQ(OpenAndVerify(root_ / "real"), absl::OkStatus());
}

TEST_F(TemplateTest, Writer_Refuses_WhenTheFolderIsNotFit) {
  const auto expect = [](const std::string& dir, absl::StatusCode code, const char* text) {
    const absl::Status status = TemplateWriter::Create(dir).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(Message(status), HasSubstr(text));
  };
  expect("", absl::StatusCode::kInvalidArgument, "name is empty");
  expect(root_ / "no/such", absl::StatusCode::kNotFound, "parent folder");
  Write(root_ / "file", "x");
  expect(root_ / "file", absl::StatusCode::kFailedPrecondition, "is not a folder; name a new folder");
  expect(root_, absl::StatusCode::kFailedPrecondition, "is not empty; name a new or an empty folder");
  fs::create_symlink("nowhere", root_ / "link");
  expect(root_ / "link", absl::StatusCode::kFailedPrecondition, "symbolic link to nothing");
}

TEST_F(TemplateTest, Writer_RefusesAndLeavesNothing_WhenFilledMeanwhile) {
  auto writer = TemplateWriter::Create(dir_);
  ASSERT_TRUE(writer.ok());
  std::vector<uint8_t> pages = sample::Pages();
  const struct iovec part = {pages.data(), pages.size()};
  ASSERT_TRUE((*writer)->AppendPages({&part, 1}).ok());
  fs::create_directory(dir_);
  Write(dir_ / "other", "x");
  const absl::Status status = (*writer)->Commit(sample::Image(), sample::Manifest());
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(status), HasSubstr("meanwhile"));
  writer->reset();
  EXPECT_THAT(Names(root_), UnorderedElementsAre("template"));
  EXPECT_THAT(Names(dir_), UnorderedElementsAre("other"));
}

TEST_F(TemplateTest, Writer_RefusesBadInput_WhenItBreaksARule) {
  auto writer = TemplateWriter::Create(dir_);
  ASSERT_TRUE(writer.ok());
  const absl::Status image = (*writer)->Commit(ProcessImageT(), sample::Manifest());
  EXPECT_EQ(image.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(Message(image), HasSubstr("image: processes: 0 elements"));
  EXPECT_THAT(Message((*writer)->Commit(sample::Image(), sample::Manifest())), HasSubstr("processes: 0"));
  writer = TemplateWriter::Create(dir_);
  char byte = 0;
  const struct iovec part = {&byte, 1};
  const absl::Status pages = (*writer)->AppendPages({&part, 1}).status();
  EXPECT_EQ(pages.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(Message(pages), HasSubstr("not whole pages"));
}

TEST_F(TemplateTest, Writer_SaysWhatToDo_WhenTheDiskIsFull) {
  auto writer = TemplateWriter::Create(dir_);
  ASSERT_TRUE(writer.ok());
  struct rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const struct rlimit small = {2 * kPageSize, old.rlim_max};
  const auto handler = signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  std::vector<uint8_t> pages = sample::Pages();
  const struct iovec part = {pages.data(), pages.size()};
  const absl::Status status = (*writer)->AppendPages({&part, 1}).status();
  setrlimit(RLIMIT_FSIZE, &old);
  signal(SIGXFSZ, handler);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(Message(status), HasSubstr("pages: write at offset 8192"));
  EXPECT_THAT(Message(status), HasSubstr("; nothing was kept: free space"));
  EXPECT_EQ((*writer)->Commit(sample::Image(), sample::Manifest()), status);
  writer->reset();
  EXPECT_TRUE(fs::is_empty(root_));
}

TEST_F(TemplateTest, Reader_SaysNotATemplate_WhenNothingIsThere) {
  for (const auto& [dir, text] : {std::pair<fs::path, const char*>{root_ / "none", "no such folder"},
                                  {root_, "no file \"manifest\""}}) {
    const absl::Status status = TemplateReader::Open(dir).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kNotFound);
    EXPECT_THAT(Message(status), HasSubstr("is not a template"));
    EXPECT_THAT(Message(status), HasSubstr(text));
  }
}

TEST_F(TemplateTest, Reader_RefusesAtOnce_WhenAFileIsSomethingElse) {
  ASSERT_TRUE(WriteSample(dir_).ok());
  for (const char* name : {"manifest", "image", "pages"}) {
    const fs::path path = dir_ / name;
    fs::rename(path, root_ / name);
    const auto expect = [&](const char* text) {
      const absl::Status status = TemplateReader::Open(dir_).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
      EXPECT_THAT(Message(status), HasSubstr(absl::StrCat(name, ": ", text)));
    };
    ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
    expect("is a FIFO, not a regular file");
    fs::remove(path);
    fs::create_symlink(root_ / name, path);
    expect("is a symbolic link");
    fs::remove(path);
    fs::create_directory(path);
    expect("is a folder");
    fs::remove(path);
    if (name != std::string("manifest")) expect("missing");
    fs::rename(root_ / name, path);
  }
  EXPECT_EQ(OpenAndVerify(dir_), absl::OkStatus());
}

TEST_F(TemplateTest, Reader_NamesBothVersions_WhenTheVersionIsAnother) {
  ASSERT_TRUE(WriteSample(dir_).ok());
  std::string manifest = Read(dir_ / "manifest");
  for (const char other : {'\0', '\3'}) {
    manifest[8] = other;
    Write(dir_ / "manifest", manifest);
    const absl::Status status = TemplateReader::Open(dir_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(Message(status),
                HasSubstr(absl::StrCat("format version ", int{other}, ", this program reads versions 1 to 2; use the program")));
  }
  // How leaves are made is not to be had from bytes that no digest covers.
  manifest[8] = 1;
  Write(dir_ / "manifest", manifest);
  const absl::Status status = TemplateReader::Open(dir_).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(Message(status), HasSubstr("manifest: format_version: 2, not that of the header"));
}

TEST_F(TemplateTest, Writer_KeepsTheVersion_WhenItCopiesAnOldTemplate) {
  ASSERT_TRUE(WriteSample(dir_, {.format_version = 1}).ok());
  auto reader = TemplateReader::Open(dir_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->manifest().format_version, 1u);
  EXPECT_EQ(Read(dir_ / "manifest")[8], 1);
  EXPECT_EQ((*reader)->VerifyPages(), absl::OkStatus());
  // The tree of the golden one, whose pages are the same.
  EXPECT_EQ(DigestHex((*reader)->manifest().pages->sha256),
            "456f25ee625b76005b9e9290e30666e59552ce868031cb699982e9ee628cc83b");
}

TEST_F(TemplateTest, Reader_Refuses_WhenAFileIsCutAnywhere) {
  ASSERT_TRUE(WriteSample(dir_).ok());
  for (const char* name : {"manifest", "image", "pages"}) {
    const std::string whole = Read(dir_ / name);
    for (size_t size = 0; size < whole.size(); size += name[0] == 'p' ? 4096 - 64 : 64) {
      Write(dir_ / name, whole.substr(0, size));
      const absl::Status status = TemplateReader::Open(dir_).status();
      ASSERT_EQ(status.code(), absl::StatusCode::kDataLoss) << name << " of " << size;
      ASSERT_THAT(Message(status), HasSubstr(absl::StrCat(name, ": ")));
    }
    Write(dir_ / name, whole + '\0');
    EXPECT_EQ(TemplateReader::Open(dir_).status().code(), absl::StatusCode::kDataLoss);
    Write(dir_ / name, whole);
  }
}

TEST_F(TemplateTest, Reader_Refuses_WhenAnyBitOfTheHeaderFlips) {
  ASSERT_TRUE(WriteSample(dir_).ok());
  const std::string whole = Read(dir_ / "manifest");
  for (size_t bit = 0; bit < kManifestHeaderSize * 8; ++bit) {
    std::string flipped = whole;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    const absl::Status status = ParseManifest(flipped).status();
    const bool version = bit / 8 >= 8 && bit / 8 < 12;
    EXPECT_EQ(status.code(), version ? absl::StatusCode::kFailedPrecondition : absl::StatusCode::kDataLoss)
        << "bit " << bit << ": " << status;
  }
}

// No bit of a template is outside a digest or a check, so there is no padding in which a flip goes unseen.
TEST_F(TemplateTest, Reader_Refuses_WhenAnyBitOfAnyFileFlips) {
  ASSERT_TRUE(WriteSample(dir_).ok());
  std::mt19937 random(1);
  for (const char* name : {"manifest", "image", "pages"}) {
    const std::string whole = Read(dir_ / name);
    fs::permissions(dir_ / name, fs::perms::owner_write, fs::perm_options::add);
    const int fd = open((dir_ / name).c_str(), O_WRONLY | O_CLOEXEC);
    ASSERT_GE(fd, 0);
    for (int i = 0; i < 700; ++i) {
      const size_t at = random() % whole.size();
      const char flipped = static_cast<char>(whole[at] ^ (1 << (random() % 8)));
      ASSERT_EQ(pwrite(fd, &flipped, 1, static_cast<off_t>(at)), 1);
      const absl::Status status = OpenAndVerify(dir_);
      ASSERT_TRUE(absl::IsDataLoss(status) || absl::IsFailedPrecondition(status)) << name << " at " << at;
      ASSERT_THAT(Message(status), HasSubstr(absl::StrCat(name, ": ")));
      ASSERT_EQ(pwrite(fd, &whole[at], 1, static_cast<off_t>(at)), 1);
    }
    close(fd);
  }
  EXPECT_EQ(OpenAndVerify(dir_), absl::OkStatus());
}

TEST_F(TemplateTest, Reader_NamesTheChunk_WhenPagesAreDamaged) {
  ASSERT_TRUE(WriteSample(dir_).ok());
  std::string pages = Read(dir_ / "pages");
  pages[kPagesChunk + 3] ^= 1;
  Write(dir_ / "pages", pages);
  auto reader = TemplateReader::Open(dir_);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_THAT(Message((*reader)->VerifyPages()), HasSubstr("pages: chunk 1 (offset 262144, 24576 bytes)"));
  std::vector<std::byte> out(kPageSize);
  EXPECT_TRUE((*reader)->ReadPages(0, absl::MakeSpan(out)).ok());
  EXPECT_EQ((*reader)->ReadPages(kPagesChunk, absl::MakeSpan(out)).code(), absl::StatusCode::kDataLoss);
}

TEST_F(TemplateTest, Parser_Refuses_WhenAPartIsUsedTwice) {
  flatbuffers::FlatBufferBuilder builder;
  const auto note = builder.CreateString(std::string(1000, 'x'));
  const auto notes = builder.CreateVector(std::vector<flatbuffers::Offset<flatbuffers::String>>(1000, note));
  const auto processes = builder.CreateVector(std::vector<flatbuffers::Offset<Process>>());
  ProcessImageBuilder image(builder);
  image.add_processes(processes);
  image.add_notes(notes);
  builder.Finish(image.Finish());
  const absl::Status status =
      ParseImage({reinterpret_cast<const char*>(builder.GetBufferPointer()), builder.GetSize()}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss);
  EXPECT_THAT(Message(status), HasSubstr("image: a part is used more than once"));
}

// Paths of what `now` lacks or has otherwise; fields that are new since then are none of it.
void Differences(const nlohmann::json& then, const nlohmann::json& now, const std::string& at, std::vector<std::string>& found) {
  if (then.type() != now.type() || (then.is_array() && then.size() != now.size())) {
    found.push_back(at);
  } else if (then.is_object()) {
    for (const auto& [key, value] : then.items()) {
      now.contains(key) ? Differences(value, now.at(key), at + "/" + key, found) : found.push_back(at + "/" + key);
    }
  } else if (then.is_array()) {
    for (size_t i = 0; i < then.size(); ++i) Differences(then[i], now[i], at + "/" + std::to_string(i), found);
  } else if (then != now) {
    found.push_back(at);
  }
}

class GoldenTest : public testing::TestWithParam<const char*> {};

// All of it means what it meant when it was written: the JSON was stored with it.
TEST_P(GoldenTest, Reader_UnderstandsItAsThen_WhenItIsOld) {
  const std::string golden = std::string(MOULT_SOURCE_DIR) + "/protocol/golden/" + GetParam();
  auto reader = TemplateReader::Open(golden);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->VerifyPages(), absl::OkStatus());
  std::ifstream file(golden + ".json");
  const nlohmann::json then = nlohmann::json::parse(file);
  std::vector<std::string> found;
  Differences(then.at("manifest"), nlohmann::json::parse(ManifestToJson((*reader)->manifest())), "manifest", found);
  Differences(then.at("image"), nlohmann::json::parse(ImageToJson((*reader)->image())), "image", found);
  EXPECT_THAT(found, testing::IsEmpty());
}

INSTANTIATE_TEST_SUITE_P(Version1, GoldenTest, testing::Values("1", "1-all"));
INSTANTIATE_TEST_SUITE_P(Version2, GoldenTest, testing::Values("2", "2-all"));

TEST_F(TemplateTest, Reader_ReadsTheGoldenTemplate_WhenTheFormatIsOne) {
  const std::string golden = std::string(MOULT_SOURCE_DIR) + "/protocol/golden/1";
  auto reader = TemplateReader::Open(golden);
  ASSERT_TRUE(reader.ok()) << reader.status();
  EXPECT_EQ((*reader)->VerifyPages(), absl::OkStatus());
  EXPECT_EQ((*reader)->manifest().name, "sample");
  EXPECT_EQ((*reader)->image().processes[0]->threads[1]->tid, 4243);
  EXPECT_EQ(DigestHex((*reader)->manifest().pages->sha256),
            "456f25ee625b76005b9e9290e30666e59552ce868031cb699982e9ee628cc83b");
}

TEST(DigestTest, Tree_MatchesTheSpec_WhenComputedByHand) {
  const auto leaf = [](char c) { return Sha256Of(std::string("\0", 1) + c); };
  const auto text = [](const Sha256Digest& d) { return std::string(d.begin(), d.end()); };
  const std::byte a{'a'};
  EXPECT_EQ(LeafDigest(1, {&a, 1}), leaf('a'));
  EXPECT_EQ(TreeRoot(absl::Span<const Sha256Digest>()), Sha256Of(""));
  EXPECT_EQ(DigestHex(Sha256Of("")), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  const std::vector<Sha256Digest> leaves = {leaf('a'), leaf('b'), leaf('c')};
  const Sha256Digest ab = Sha256Of("\1" + text(leaves[0]) + text(leaves[1]));
  EXPECT_EQ(TreeRoot(leaves), Sha256Of("\1" + text(ab) + text(leaves[2])));
}

TEST(DigestTest, Leaf_IsOfItsPagesDigests_SinceVersion2) {
  std::vector<std::byte> chunk(2 * kPageSize, std::byte{'p'});
  std::fill_n(chunk.begin(), kPageSize, std::byte{'q'});
  const auto page = [](char c) { return Sha256Of(std::string("\0", 1) + std::string(kPageSize, c)); };
  const auto text = [](const Sha256Digest& d) { return std::string(d.begin(), d.end()); };
  const std::string pages = text(page('q')) + text(page('p'));
  const Sha256Digest leaf = Sha256Of("\2" + pages);
  EXPECT_EQ(LeafDigest(2, chunk), leaf);
  EXPECT_EQ(PageDigest(absl::MakeSpan(chunk).first(kPageSize)), page('q'));
  const std::vector<uint8_t> digests(pages.begin(), pages.end());
  EXPECT_EQ(LeafOfPages(digests), leaf);

  const std::vector<uint8_t> leaves(leaf.begin(), leaf.end());
  const PageLeaves now{2, leaves}, then{1, leaves};
  EXPECT_TRUE(now.Match(chunk, 0));
  EXPECT_TRUE(now.MatchPages(digests, 0));
  EXPECT_FALSE(now.Match(chunk, 1));
  EXPECT_FALSE(now.MatchPages(digests, 1));
  EXPECT_FALSE(then.Match(chunk, 0));
  EXPECT_FALSE(then.MatchPages(digests, 0));
  // A chunk's leaf is no page's digest, and a single page's is not its own leaf.
  EXPECT_NE(LeafDigest(2, absl::MakeSpan(chunk).first(kPageSize)), page('q'));
  // What is hashed for a leaf, taken as content, has another digest.
  std::vector<std::byte> forged(pages.size());
  std::memcpy(forged.data(), pages.data(), pages.size());
  EXPECT_FALSE(now.Match(forged, 0));
}

TEST(JsonTest, Json_IsValid_WhenTextIsHostile) {
  ProcessImageT image = sample::Image();
  image.notes = {"\"\\\n\x7f", "\xff\xc0\x80", "\xc3\xa4\xf0\x9f\x90\x8d"};
  const std::string json = ImageToJson(image, 0);
  EXPECT_THAT(json, HasSubstr(R"("notes":["\"\\\u000a\u007f","\ufffd\ufffd\ufffd","ä🐍"])"));
  EXPECT_THAT(json, HasSubstr(R"("comm":"c2FtcGxl")"));
  EXPECT_THAT(json, HasSubstr(R"("resource_type":"Device","resource":{"file":2})"));
  EXPECT_THAT(json, HasSubstr(R"({"start":4194304,"end":4202496,"prot":5,"kind":"PrivateFile","file":0)"));
  EXPECT_THAT(ImageToJson(image, 2), HasSubstr("\n  \"realtime_ns\": 1700000000000000000,\n"));
}

}  // namespace
}  // namespace moult::image
