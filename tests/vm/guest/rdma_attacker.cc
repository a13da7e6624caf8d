// SPDX-License-Identifier: Apache-2.0
//
// moult-vm-rdma-attacker NODE KEYS TENANT TEMPLATE OTHER OTHERS-TEMPLATE [SEED]: a client of moult-poold that does what no
// client should, as nobody, as TENANT, and with what OTHER was given. Ends with 0 when it got nothing, and says what it got else.
//
// moult-vm-rdma-attacker --forsake NODE KEYS TENANT MIB FILE: connects, says "connected", waits until FILE is there, asks for a
// loan of so much and leaves without the answer.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "moult/base/status.h"
#include "pool/rdma/connection.h"

namespace {

namespace rdma = moult::host::rdma;
using std::chrono::seconds;

struct Aim {
  moult::host::PoolNode node;
  rdma::TenantKey mine, other;
  std::string template_name, others_template;
};

rdma::Clock::time_point In(int s) { return rdma::Clock::now() + seconds(s); }

absl::Status Got(const std::string& what) { return absl::InternalError(absl::StrCat("got through: ", what)); }

std::string Introduce(const rdma::TenantKey& key) { return rdma::Encode(rdma::Introduction{rdma::IdOf(key.tenant)}); }

// One operation on a key; true when it succeeded.
absl::StatusOr<bool> Reaches(rdma::Connection* connection, ibv_wr_opcode operation, const rdma::Region& region) {
  MOULT_ASSIGN_OR_RETURN(const rdma::Memory memory, rdma::Memory::Map(4096, "an attack"));
  MOULT_ASSIGN_OR_RETURN(const rdma::MemoryRegion mine,
                         rdma::RegisterLocal(connection->queue().queue_pair()->pd, memory.bytes()));
  MOULT_RETURN_IF_ERROR(connection->queue().Post(operation, 1, memory.bytes(), mine->lkey, region.address, region.key));
  const auto done = connection->queue().Completion(In(20));
  const bool reached = done.ok() && done->status == IBV_WC_SUCCESS;
  std::printf("  reach: %s\n", done.ok() ? absl::StrCat("work completion status ", static_cast<int>(done->status)).c_str()
                                         : std::string(done.status().message()).c_str());
  // It may still be under way: the memory has to outlast it.
  if (!done.ok()) std::exit(3);
  return reached;
}

// Keys are of a connection: what another was given is none here.
absl::Status StolenKeys(const Aim& aim) {
  MOULT_ASSIGN_OR_RETURN(auto owner, rdma::Connection::Open(aim.node, aim.other, In(10)));
  MOULT_ASSIGN_OR_RETURN(const rdma::Opened theirs, owner->Ask<rdma::Opened>(rdma::Open{aim.others_template}, In(20)));
  MOULT_ASSIGN_OR_RETURN(auto own, rdma::Connection::Open(aim.node, aim.mine, In(10)));
  if (own->Ask<rdma::Opened>(rdma::Open{aim.others_template}, In(20)).ok()) return Got("another tenant's template, by name");
  MOULT_ASSIGN_OR_RETURN(const bool stolen, Reaches(own.get(), IBV_WR_RDMA_READ, theirs.region));
  if (stolen) return Got("another tenant's pages, by their key");
  MOULT_ASSIGN_OR_RETURN(auto early, rdma::Connection::Connect(aim.node, Introduce(aim.other), In(10)));
  MOULT_ASSIGN_OR_RETURN(const bool unproved, Reaches(early.get(), IBV_WR_RDMA_READ, theirs.region));
  if (unproved) return Got("pages before the key was proved");
  MOULT_ASSIGN_OR_RETURN(auto writer, rdma::Connection::Open(aim.node, aim.other, In(10)));
  MOULT_ASSIGN_OR_RETURN(const bool written, Reaches(writer.get(), IBV_WR_RDMA_WRITE, theirs.region));
  if (written) return Got("a write into a template");
  MOULT_ASSIGN_OR_RETURN(const bool read, Reaches(owner.get(), IBV_WR_RDMA_READ, theirs.region));
  return read ? absl::OkStatus() : absl::InternalError("the owner cannot read its own");
}

// The answers of an unproved connection.
absl::Status Unproved(const Aim& aim) {
  for (const bool hello : {false, true}) {
    for (const rdma::Request& request : {rdma::Request(rdma::List{}), rdma::Request(rdma::Open{aim.template_name}),
                                         rdma::Request(rdma::Remove{aim.template_name}), rdma::Request(rdma::PushCommit{}),
                                         rdma::Request(rdma::Borrow{4096}), rdma::Request(rdma::Renew{}),
                                         rdma::Request(rdma::Proof{})}) {
      MOULT_ASSIGN_OR_RETURN(auto connection, rdma::Connection::Connect(aim.node, Introduce(aim.mine), In(10)));
      if (hello) MOULT_RETURN_IF_ERROR(connection->Ask<rdma::Challenge>(rdma::Hello{rdma::RandomNonce()}, In(10)).status());
      MOULT_RETURN_IF_ERROR(connection->queue().Send(rdma::Encode(rdma::Message<rdma::Request>{9, request}), In(10)));
      const auto bytes = connection->queue().Receive(In(10), connection->over());
      if (!bytes.ok()) continue;
      const auto reply = rdma::ParseReply(*bytes);
      if (!reply.ok() || !std::holds_alternative<rdma::Failure>(reply->content)) return Got("an answer without proof");
    }
  }
  return absl::OkStatus();
}

// Bytes that are no message, and messages with a few bytes changed: the other side ends the connection or answers.
absl::Status Garbage(const Aim& aim, std::minstd_rand* random, bool proved) {
  for (int i = 0; i < 20; ++i) {
    auto connection = proved ? rdma::Connection::Open(aim.node, aim.mine, In(10))
                             : rdma::Connection::Connect(aim.node, Introduce(aim.mine), In(10));
    if (!connection.ok()) return connection.status();
    std::string bytes;
    if (i % 2 == 0) {
      bytes.resize(1 + (*random)() % rdma::kMaxMessage);
      for (char& byte : bytes) byte = static_cast<char>((*random)());
    } else {
      bytes = rdma::Encode(rdma::Message<rdma::Request>{7, rdma::PushBegin{"pushed-by-attacker", {4096, 100, 100}}});
      for (unsigned changes = 1 + (*random)() % 4; changes > 0; --changes) bytes[(*random)() % bytes.size()] = static_cast<char>((*random)());
    }
    MOULT_RETURN_IF_ERROR((*connection)->queue().Send(bytes, In(10)));
    (void)(*connection)->queue().Receive(In(10), (*connection)->over()).status();
  }
  return absl::OkStatus();
}

// A push that says other than it brings.
absl::Status FalsePush(const Aim& aim) {
  MOULT_ASSIGN_OR_RETURN(auto connection, rdma::Connection::Open(aim.node, aim.mine, In(10)));
  MOULT_ASSIGN_OR_RETURN(const rdma::PushTo to, connection->Ask<rdma::PushTo>(rdma::PushBegin{"false", {8192, 100, 100}}, In(10)));
  if (connection->Ask<rdma::Done>(rdma::PushCommit{}, In(10)).ok()) return Got("zeros as a template");
  MOULT_ASSIGN_OR_RETURN(const bool late, Reaches(connection.get(), IBV_WR_RDMA_WRITE, to.region));
  if (late) return Got("a write after the commit");
  MOULT_ASSIGN_OR_RETURN(auto big, rdma::Connection::Open(aim.node, aim.mine, In(10)));
  const auto full = big->Ask<rdma::PushTo>(rdma::PushBegin{"big", {uint64_t{200} << 30, 100, 100}}, In(10));
  if (full.ok()) return Got("200 GiB of memory");
  return absl::IsResourceExhausted(full.status()) ? absl::OkStatus() : full.status();
}

// A loan is its tenant's, nothing but zeros at first, and over when it is given back.
absl::Status Loans(const Aim& aim) {
  constexpr uint64_t kBytes = 1 << 20;
  MOULT_ASSIGN_OR_RETURN(auto owner, rdma::Connection::Open(aim.node, aim.other, In(10)));
  MOULT_ASSIGN_OR_RETURN(const rdma::Lent loan, owner->Ask<rdma::Lent>(rdma::Borrow{kBytes}, In(20)));
  const rdma::Region region{loan.address, loan.key, {loan.bytes, 0, 0}};
  std::vector<std::byte> marks(kBytes, std::byte{0x5a}), read(kBytes);
  MOULT_RETURN_IF_ERROR(owner->Write(region, 0, marks, In(20)));
  for (const ibv_wr_opcode operation : {IBV_WR_RDMA_READ, IBV_WR_RDMA_WRITE}) {
    MOULT_ASSIGN_OR_RETURN(auto own, rdma::Connection::Open(aim.node, aim.mine, In(10)));
    MOULT_ASSIGN_OR_RETURN(const bool reached, Reaches(own.get(), operation, region));
    if (reached) return Got("another tenant's loan, by its key");
    MOULT_ASSIGN_OR_RETURN(auto early, rdma::Connection::Connect(aim.node, Introduce(aim.other), In(10)));
    MOULT_ASSIGN_OR_RETURN(const bool unproved, Reaches(early.get(), operation, region));
    if (unproved) return Got("a loan before the key was proved");
  }
  MOULT_ASSIGN_OR_RETURN(auto own, rdma::Connection::Open(aim.node, aim.mine, In(10)));
  if (!absl::IsNotFound(own->Ask<rdma::Lent>(rdma::Renew{loan.token}, In(10)).status())) return Got("another tenant's loan, by its token");
  if (!absl::IsNotFound(own->Ask<rdma::Done>(rdma::GiveBack{loan.token}, In(10)).status())) return Got("another tenant's loan ended");
  const moult::host::PoolPiece whole{0, absl::MakeSpan(read)};
  MOULT_RETURN_IF_ERROR(owner->Read(region, {&whole, 1}, In(20)));
  if (read != marks) return absl::InternalError("the owner reads something else");
  MOULT_RETURN_IF_ERROR(owner->Ask<rdma::Done>(rdma::GiveBack{loan.token}, In(20)).status());
  // The memory that has just been freed is the likeliest to be lent next.
  MOULT_ASSIGN_OR_RETURN(const rdma::Lent next, own->Ask<rdma::Lent>(rdma::Borrow{kBytes}, In(20)));
  MOULT_RETURN_IF_ERROR(own->Read({next.address, next.key, {next.bytes, 0, 0}}, {&whole, 1}, In(20)));
  if (read != std::vector<std::byte>(kBytes)) return Got("what another tenant had left");
  MOULT_RETURN_IF_ERROR(own->Ask<rdma::Done>(rdma::GiveBack{next.token}, In(20)).status());
  MOULT_ASSIGN_OR_RETURN(const bool late, Reaches(owner.get(), IBV_WR_RDMA_WRITE, region));
  return late ? Got("a write into what was given back") : absl::OkStatus();
}

absl::Status Attack(const Aim& aim, unsigned seed) {
  std::minstd_rand random(seed);
  std::printf("bad introductions\n");
  for (const std::string& introduction : {std::string(), std::string(10, 'x'), std::string(50, '\xff')}) {
    if (rdma::Connection::Connect(aim.node, introduction, In(10)).ok()) return Got("a connection without an introduction");
  }
  std::printf("unproved\n");
  MOULT_RETURN_IF_ERROR(Unproved(aim));
  std::printf("garbage\n");
  MOULT_RETURN_IF_ERROR(Garbage(aim, &random, /*proved=*/false));
  MOULT_RETURN_IF_ERROR(Garbage(aim, &random, /*proved=*/true));
  std::printf("false pushes\n");
  MOULT_RETURN_IF_ERROR(FalsePush(aim));
  std::printf("loans\n");
  MOULT_RETURN_IF_ERROR(Loans(aim));
  std::printf("stolen keys\n");
  return StolenKeys(aim);
}

absl::StatusOr<moult::host::PoolNode> NodeAt(const char* address) {
  MOULT_ASSIGN_OR_RETURN(const auto uri, moult::host::ParsePoolUri(absl::StrCat("rdma://", address, "/")));
  return uri.nodes[0];
}

absl::Status Forsake(char** argv) {
  MOULT_ASSIGN_OR_RETURN(const moult::host::PoolNode node, NodeAt(argv[0]));
  MOULT_ASSIGN_OR_RETURN(const auto keys, rdma::ReadKeyFile(argv[1]));
  MOULT_ASSIGN_OR_RETURN(const rdma::TenantKey key, rdma::FindKey(keys, argv[2]));
  MOULT_ASSIGN_OR_RETURN(auto connection, rdma::Connection::Open(node, key, In(10)));
  std::printf("connected\n");
  while (access(argv[4], F_OK) != 0) usleep(10'000);
  const rdma::Request borrow = rdma::Borrow{std::strtoull(argv[3], nullptr, 10) << 20};
  MOULT_RETURN_IF_ERROR(connection->queue().Send(rdma::Encode(rdma::Message<rdma::Request>{9, borrow}), In(10)));
  return connection->queue().Flush(In(10));
}

absl::Status Main(char** argv, unsigned seed) {
  Aim aim;
  MOULT_ASSIGN_OR_RETURN(aim.node, NodeAt(argv[1]));
  MOULT_ASSIGN_OR_RETURN(const auto keys, rdma::ReadKeyFile(argv[2]));
  MOULT_ASSIGN_OR_RETURN(aim.mine, rdma::FindKey(keys, argv[3]));
  MOULT_ASSIGN_OR_RETURN(aim.other, rdma::FindKey(keys, argv[5]));
  aim.template_name = argv[4];
  aim.others_template = argv[6];
  return Attack(aim, seed);
}

}  // namespace

int main(int argc, char** argv) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  const bool forsake = argc == 7 && std::string(argv[1]) == "--forsake";
  if (argc < 7) return 2;
  const absl::Status status =
      forsake ? Forsake(argv + 2) : Main(argv, argc > 7 ? static_cast<unsigned>(std::atoi(argv[7])) : 1);
  std::printf("attacker: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
