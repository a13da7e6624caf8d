// SPDX-License-Identifier: Apache-2.0
//
// A picture as PNG, SVG and text.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <png.h>

#include <set>

#include "bitmap_font.h"
#include "page_png.h"
#include "page_svg.h"
#include "page_text.h"
#include "report.h"

namespace moult::ctl {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

Picture Draw(const Json& report, const PictureOptions& options) {
  const absl::StatusOr<Ledger> ledger = ParseLedger(report);
  EXPECT_TRUE(ledger.ok()) << ledger.status();
  const absl::StatusOr<Picture> picture = DrawPicture(*ledger, options);
  EXPECT_TRUE(picture.ok()) << picture.status();
  return *picture;
}

// Eight cells a row: free, free, system, system, thumb's, ...; then templates.
Picture Small() {
  return Draw(ReportOf({{kFree, 2}, {kSystem, 2}, {kUserPrivate, 4}, {kPageCache, 3}, {kTemplate, 2}}),
              {.columns = 8, .max_rows = 8});
}

struct Decoded {
  size_t width = 0, height = 0;
  std::vector<uint8_t> bytes;
  Colour At(size_t x, size_t y) const {
    const uint8_t* at = &bytes[(y * width + x) * 3];
    return {at[0], at[1], at[2]};
  }
};

Decoded Decode(const std::string& file) {
  png_image header{};
  header.version = PNG_IMAGE_VERSION;
  EXPECT_NE(png_image_begin_read_from_memory(&header, file.data(), file.size()), 0) << header.message;
  header.format = PNG_FORMAT_RGB;
  Decoded decoded{.width = header.width, .height = header.height, .bytes = {}};
  decoded.bytes.resize(PNG_IMAGE_SIZE(header));
  EXPECT_NE(png_image_finish_read(&header, nullptr, decoded.bytes.data(), 0, nullptr), 0) << header.message;
  return decoded;
}

TEST(Png, HasEachCellWhereTheSheetSays) {
  const Picture picture = Small();
  const Sheet sheet = LayOut(picture);
  const absl::StatusOr<std::string> file = EncodePng(Paint(picture, sheet));
  ASSERT_TRUE(file.ok()) << file.status();
  const Decoded image = Decode(*file);
  ASSERT_EQ(image.width, sheet.width);
  ASSERT_EQ(image.height, sheet.height);
  const Colour white{255, 255, 255};
  EXPECT_EQ(image.At(0, 0), white);
  for (size_t x = 0; x < 8; ++x) {
    const char* name = x < 2 ? "free" : x < 4 ? "system" : "user_private";
    EXPECT_EQ(image.At(sheet.ram.x + x, sheet.ram.y), ClassColour(name, 4, false)) << x;
    EXPECT_EQ(image.At(sheet.ram.x + x, sheet.ram.y + 1), x < 3 ? ClassColour("page_cache", 0, false) : white)
        << x;
    EXPECT_EQ(image.At(sheet.templates.x + x, sheet.templates.y),
              x < 2 ? ClassColour("template", 4, false) : white)
        << x;
  }
  ASSERT_EQ(sheet.swatches.size(), picture.legend.size());
  for (const Sheet::Swatch& swatch : sheet.swatches) {
    EXPECT_EQ(image.At(swatch.at.x, swatch.at.y), swatch.colour);
    EXPECT_EQ(image.At(swatch.at.x + kSwatch - 1, swatch.at.y + kSwatch - 1), swatch.colour);
  }
}

TEST(Png, WritesItsLegend) {
  const Picture picture = Small();
  const Sheet sheet = LayOut(picture);
  const Image image = Paint(picture, sheet);
  const Decoded pixels{.width = image.width(), .height = image.height(), .bytes = image.bytes()};
  for (const Sheet::Line& line : sheet.lines) {
    ASSERT_LE(line.at.x + line.text.size() * kCharacterWidth, sheet.width) << line.text;
    for (size_t i = 0; i < line.text.size(); ++i) {
      for (size_t y = 0; y < kGlyphRows; ++y) {
        for (size_t x = 0; x < kGlyphColumns; ++x) {
          const Colour at = pixels.At(line.at.x + i * kCharacterWidth + 2 * x, line.at.y + 2 * y);
          ASSERT_EQ(at != (Colour{255, 255, 255}), Ink(line.text[i], x, y)) << line.text << ": " << i;
        }
      }
    }
  }
}

TEST(Png, KeepsWithinTheImage) {
  Image image(4, 3);
  image.Write({3, 0}, "H", {});
  image.Fill({2, 2}, 10, 10, {1, 2, 3});
  image.Set(4, 0, {9, 9, 9});
  const Decoded pixels{.width = 4, .height = 3, .bytes = image.bytes()};
  EXPECT_EQ(pixels.At(3, 2), (Colour{1, 2, 3}));
  EXPECT_EQ(pixels.At(1, 2), (Colour{255, 255, 255}));
  EXPECT_EQ(pixels.At(0, 1), (Colour{255, 255, 255}));
}

TEST(Sheet, HasNoStrip_WhenThereAreNoTemplates) {
  const Picture picture = Draw(ReportOf({{kFree, 16}}), {.columns = 4, .max_rows = 4});
  const Sheet sheet = LayOut(picture);
  ASSERT_EQ(sheet.lines.size(), 2u) << "a caption and one class";
  EXPECT_EQ(sheet.lines[0].text, "64.0 KiB of guest RAM; a pixel is 1 page (4096 B)");
  EXPECT_EQ(sheet.lines[1].text, "free  64.0 KiB  100.0 %");
}

TEST(Font, HasAGlyphForEachLetter_AndABoxForTheRest) {
  const auto points = [](char c) {
    std::string ink;
    for (size_t y = 0; y < kGlyphRows; ++y) {
      for (size_t x = 0; x < kGlyphColumns; ++x) ink.push_back(Ink(c, x, y) ? '#' : '.');
    }
    return ink;
  };
  std::set<std::string> glyphs;
  for (char c = ' '; c <= '~'; ++c) glyphs.insert(points(c));
  EXPECT_EQ(glyphs.size(), 95u);
  EXPECT_EQ(points('T').substr(0, 10), "#####..#..");
  EXPECT_EQ(points('\x7f'), points('\xc3'));
  EXPECT_FALSE(glyphs.contains(points('\xc3')));
  EXPECT_FALSE(Ink('#', kGlyphColumns, 2));
}

TEST(Svg, HasAPathForEachColour_AndTextThatIsText) {
  Json report = ReportOf({{kFree, 2}, {kSystem, 2}, {kUserPrivate, 4}, {kPageCache, 3}, {kTemplate, 2}});
  report["functions"][0]["name"] = "<a & \"b\">\xef\xbf\xbf";
  const Picture picture = Draw(report, {.columns = 8, .max_rows = 8});
  const Sheet sheet = LayOut(picture);
  const std::string svg = EncodeSvg(picture, sheet);
  EXPECT_THAT(svg, StartsWith("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<svg "));
  EXPECT_THAT(
      svg, HasSubstr("<path fill=\"" + HexColour(ClassColour("free", 0, false)) + "\" d=\"M0 0h2v1H0z\"/>"));
  EXPECT_THAT(svg, HasSubstr("<path fill=\"" + HexColour(ClassColour("user_private", 4, false)) +
                             "\" d=\"M4 0h4v1H4z\"/>"));
  EXPECT_THAT(svg, HasSubstr("d=\"M0 1h3v1H0z\"/>")) << "the page cache, which begins the second row";
  EXPECT_THAT(svg, HasSubstr("user_private of 4 &lt;a &amp; &quot;b&quot;&gt;?"));
  EXPECT_THAT(svg, Not(HasSubstr("<a &")));
}

TEST(LetterPicture, IsALetterForEachCell) {
  const std::string text = LetterPicture(Small());
  EXPECT_THAT(text, StartsWith("44.0 KiB of guest RAM; a letter is 1 page (4096 B)\n..KKPPPP\nCCC\n"
                               "8192 B of templates, beside it\nTT\n"));
  EXPECT_THAT(text, HasSubstr("P  user_private of 4 thumb  16.0 KiB  36.4 %\n"));
}

TEST(AnsiPicture, HasTwoRowsInOneLine) {
  const std::string text = AnsiPicture(Small());
  const Colour free = ClassColour("free", 0, false), cache = ClassColour("page_cache", 0, false);
  const auto sgr = [](int layer, Colour c) {
    return "\x1b[" + std::to_string(layer) + ";2;" + std::to_string(c.r) + ";" + std::to_string(c.g) + ";" +
           std::to_string(c.b) + "m";
  };
  // Free above page cache, twice without a change; in the end nothing is below.
  EXPECT_THAT(text, HasSubstr("\n" + sgr(48, cache) + sgr(38, free) + "▀▀" +
                              sgr(38, ClassColour("system", 0, false)) + "▀\x1b[49m▀"));
  EXPECT_THAT(text, HasSubstr(sgr(38, free) + "██\x1b[0m free"));
}

TEST(AnsiPicture, LeavesTheGroundBlank_WhereNoCellIs) {
  // 5 cells of a curve that has room for 16: the last rows are empty, and none but the lower one is there.
  const std::string text =
      AnsiPicture(Draw(ReportOf({{kFree, 5}}), {.columns = 4, .max_rows = 4, .hilbert = true}));
  EXPECT_THAT(text, HasSubstr("▀"));
  EXPECT_THAT(text, HasSubstr("\x1b[49m "));
}

}  // namespace
}  // namespace moult::ctl
