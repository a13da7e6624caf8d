// SPDX-License-Identifier: Apache-2.0
//
// Commands about the page ledger: pages, why, map.
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "commands.h"
#include "ledger_changes.h"
#include "ledger_view.h"
#include "moult/base/status.h"
#include "output.h"
#include "page_legend.h"
#include "page_png.h"
#include "page_svg.h"
#include "page_text.h"
#include "replace_file.h"

namespace moult::ctl {
namespace {

// How large a picture is that nobody gave a --width.
constexpr size_t kFileWidth = 512;
constexpr size_t kTextWidth = 80;

absl::StatusOr<Json> AskPages(Backend& backend, const std::string& function, bool runs) {
  Json params = Json::object();
  if (!function.empty()) {
    MOULT_ASSIGN_OR_RETURN(params["function"], FunctionId(backend, function));
  }
  if (runs) params["runs"] = true;
  return backend.Call("pages", params);
}

bool UsesColour() { return isatty(STDOUT_FILENO) == 1 && getenv("NO_COLOR") == nullptr; }

// What a terminal has room for, with the words above and below; else a page's worth of letters.
PictureOptions TextSize(const Arguments& arguments) {
  winsize size{};
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 && size.ws_row > 0;
  PictureOptions options{.columns = arguments.width, .max_rows = 0, .hilbert = arguments.hilbert};
  if (options.columns == 0) options.columns = known ? size.ws_col : kTextWidth;
  const size_t lines = known ? std::max<size_t>(size.ws_row, 24) - 12 : options.columns * 3 / 10;
  options.max_rows = std::max<size_t>(UsesColour() ? lines * 2 : lines, 8);
  return options;
}

Json LegendJson(const Picture& picture) {
  Json legend = Json::array();
  for (const LegendEntry& entry : picture.legend) {
    legend.push_back({{"class", entry.page_class},
                      {"function", entry.function},
                      {"function_name", entry.function_name},
                      {"offloaded", entry.offloaded},
                      {"bytes", entry.pages * kPageBytes},
                      {"colour", HexColour(entry.colour)},
                      {"letter", std::string(1, entry.letter)}});
  }
  return legend;
}

Json PictureJson(const Picture& picture, const PictureOptions& options) {
  return {{"op", "map"},
          {"ok", true},
          {"ram_bytes", picture.ram_pages * kPageBytes},
          {"template_bytes", picture.template_pages * kPageBytes},
          {"pages_per_cell", picture.pages_per_cell},
          {"columns", picture.ram.columns},
          {"rows", picture.ram.rows},
          {"hilbert", options.hilbert},
          {"legend", LegendJson(picture)}};
}

int PrintPicture(const Picture& picture, const PictureOptions& options, const Arguments& arguments) {
  Json json = PictureJson(picture, options);
  json["ram"] = LetterRows(picture, picture.ram);
  json["templates"] = LetterRows(picture, picture.templates);
  return Print(json, UsesColour() ? AnsiPicture(picture) : LetterPicture(picture), arguments.json);
}

int WritePicture(const Picture& picture, const PictureOptions& options, const Arguments& arguments) {
  const Sheet sheet = LayOut(picture);
  Json json = PictureJson(picture, options);
  std::string told;
  const auto write = [&](const char* key, const std::string& path, const std::string& content) {
    json[key] = path;
    absl::StrAppend(&told, path, ": ", sheet.width, " x ", sheet.height, " pixels; ",
                    Caption(picture, "pixel"), "\n");
    return ReplaceFile(path, content);
  };
  absl::Status status;
  if (!arguments.png.empty()) {
    const absl::StatusOr<std::string> png = EncodePng(Paint(picture, sheet));
    status = png.ok() ? write("png", arguments.png, *png) : png.status();
  }
  if (status.ok() && !arguments.svg.empty()) status = write("svg", arguments.svg, EncodeSvg(picture, sheet));
  if (!status.ok()) return Fail(status, arguments.json);
  json["width"] = sheet.width;
  json["height"] = sheet.height;
  return Print(json, told, arguments.json);
}

// What is no longer as an earlier report has it.
int PrintChanges(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<Ledger> before = ReadReport(arguments.against);
  if (!before.ok()) return Fail(before.status(), arguments.json);
  const absl::StatusOr<uint64_t> function = arguments.function.empty() ? 0 : FunctionId(backend, arguments.function);
  if (!function.ok()) return Fail(function.status(), arguments.json);
  // All of RAM: the report of one function does not tell whose a page is now that was its.
  const absl::StatusOr<Json> result = AskPages(backend, "", true);
  if (!result.ok()) return Fail(result.status(), arguments.json);
  const absl::StatusOr<Ledger> now = ParseLedger(*result);
  if (!now.ok()) return Fail(now.status(), arguments.json);
  if (*function == 0 && before->ram_bytes != now->ram_bytes) {
    return Fail(absl::FailedPreconditionError(
                    absl::StrCat("--against ", arguments.against, ": tells of ", before->ram_bytes,
                                 " bytes of RAM, the VM has ", now->ram_bytes,
                                 ": it is of one function, or of another VM; give the FUNCTION, or a report of all "
                                 "of this VM's RAM")),
                arguments.json);
  }
  const LedgerChanges changes(*before, *now, *function);
  if (*function != 0 && changes.functions().empty()) {
    return Fail(absl::NotFoundError(absl::StrCat("function ", *function, ": neither ", arguments.against,
                                                 " nor the VM tells of it")),
                arguments.json);
  }
  Json json = changes.ToJson(arguments.runs);
  json["against"] = arguments.against;
  return Print(json, changes.Text(arguments.runs), arguments.json);
}

absl::StatusOr<uint64_t> ParseAddress(const std::string& text) {
  const bool hex = absl::StartsWithIgnoreCase(text, "0x");
  const std::string digits = hex ? text.substr(2) : text;
  uint64_t address = 0;
  const bool all = std::all_of(digits.begin(), digits.end(), [&](unsigned char c) {
    return hex ? std::isxdigit(c) != 0 : std::isdigit(c) != 0;
  });
  if (!all || !(hex ? absl::SimpleHexAtoi(digits, &address) : absl::SimpleAtoi(digits, &address)))
    return absl::InvalidArgumentError(absl::StrCat(
        "ADDRESS ", text, ": must be a number of at most 64 bits, like 0x1f400000 or 524288000"));
  return address;
}

}  // namespace

int RunPages(Backend& backend, const Arguments& arguments) {
  if (!arguments.against.empty()) return PrintChanges(backend, arguments);
  const absl::StatusOr<Json> result = AskPages(backend, arguments.function, arguments.runs);
  if (!result.ok()) return Fail(result.status(), arguments.json);
  if (arguments.json) return Print(*result, "", true);
  const absl::StatusOr<Ledger> ledger = ParseLedger(*result);
  if (!ledger.ok()) return Fail(ledger.status(), false);
  std::string text = PagesText(*ledger, arguments.function.empty());
  if (arguments.runs) absl::StrAppend(&text, "\n", RunsText(*ledger));
  return Print(*result, text, false);
}

int RunWhy(Backend& backend, const Arguments& arguments) {
  const absl::StatusOr<uint64_t> address = ParseAddress(arguments.address);
  if (!address.ok()) return Fail(address.status(), arguments.json);
  const absl::StatusOr<Json> result = backend.Call("why", {{arguments.hva ? "hva" : "gpa", *address}});
  // Of an address of the VMM's; to who asks it is the same as one of the guest that nothing is at.
  if (absl::IsOutOfRange(result.status())) return Fail(absl::NotFoundError(result.status().message()), arguments.json);
  if (!result.ok()) return Fail(result.status(), arguments.json);
  return Print(*result, WhyText(*result), arguments.json);
}

int RunMap(Backend& backend, const Arguments& arguments) {
  const bool to_file = !arguments.png.empty() || !arguments.svg.empty();
  const size_t width = arguments.width != 0 ? arguments.width : kFileWidth;
  const PictureOptions options =
      to_file ? PictureOptions{.columns = width, .max_rows = width, .hilbert = arguments.hilbert}
              : TextSize(arguments);
  const absl::StatusOr<Json> result = AskPages(backend, "", true);
  if (!result.ok()) return Fail(result.status(), arguments.json);
  const absl::StatusOr<Ledger> ledger = ParseLedger(*result);
  if (!ledger.ok()) return Fail(ledger.status(), arguments.json);
  const absl::StatusOr<Picture> picture = DrawPicture(*ledger, options);
  if (!picture.ok()) return Fail(picture.status(), arguments.json);
  return to_file ? WritePicture(*picture, options, arguments) : PrintPicture(*picture, options, arguments);
}

}  // namespace moult::ctl
