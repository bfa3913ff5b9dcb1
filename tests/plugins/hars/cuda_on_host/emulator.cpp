#include "emulator.h"

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr size_t STACK_BYTES = 128 * 1024;

// Where a fiber waits: it may go on when `generation` no longer is what it saw.
struct Gate {
  uint64_t generation = 0;
  int arrived = 0;
  int kind = 0;
};

struct Warp {
  Gate gate;
  uint64_t values[2][32];  // two in turn: a fast lane may write its next value while a slow one still reads
};

struct Block {
  std::vector<unsigned char> shared;
  std::vector<Warp> warps;
  Gate gate;
  int yes[2] = {0, 0};
  bool is_started = false;
};

struct Fiber {
  void *stack_pointer = nullptr;
  ucontext_t context;
  int thread = 0, rank = 0;
  bool done = false;
  const Gate *waits_for = nullptr;
  uint64_t seen = 0;
};

struct Machine {
  hars_host::Shape shape;
  const std::function<void()> *body = nullptr;
  std::vector<Block> blocks;  // of the cluster that runs
  std::vector<Fiber> fibers;
  Gate cluster_gate;
  int64_t first_block = 0;
  Fiber *current = nullptr;
  void *scheduler_stack_pointer = nullptr;
  ucontext_t scheduler_context;
  std::string error;
};

Machine machine;
std::vector<char *> stacks;
std::vector<std::pair<const char *, size_t>> readable;
std::string message;
uint32_t seed = 0;
bool clusters_available = true;
int multiprocessor_total = 4;

#if defined(__x86_64__)
// Saves what the calling convention wants kept, changes stacks, and goes on where the other stack left off.
extern "C" void hars_host_switch(void **save, void *load);
asm(R"(
.text
.globl hars_host_switch
.type hars_host_switch, @function
hars_host_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size hars_host_switch, .-hars_host_switch
)");
#endif

void yield_to_scheduler();

extern "C" void hars_host_fiber_main() {
  (*machine.body)();
  machine.current->done = true;
  yield_to_scheduler();
}

void yield_to_scheduler() {
#if defined(__x86_64__)
  hars_host_switch(&machine.current->stack_pointer, machine.scheduler_stack_pointer);
#else
  swapcontext(&machine.current->context, &machine.scheduler_context);
#endif
}

void resume(Fiber &fiber) {
  machine.current = &fiber;
  // What others wrote into a block's shared memory before it started is lost.
  Block &block = machine.blocks[fiber.rank];
  if (!block.is_started) std::fill(block.shared.begin(), block.shared.end(), static_cast<unsigned char>(0xcd));
  block.is_started = true;
#if defined(__x86_64__)
  hars_host_switch(&machine.scheduler_stack_pointer, fiber.stack_pointer);
#else
  swapcontext(&machine.scheduler_context, &fiber.context);
#endif
}

void prepare(Fiber &fiber, char *stack) {
#if defined(__x86_64__)
  // As if the fiber had called hars_host_switch: six registers, the address to return to, and its own return address.
  auto top = reinterpret_cast<uintptr_t>(stack + STACK_BYTES) & ~uintptr_t{15};
  auto *slot = reinterpret_cast<void **>(top) - 8;
  std::fill(slot, slot + 8, nullptr);
  slot[6] = reinterpret_cast<void *>(&hars_host_fiber_main);
  fiber.stack_pointer = slot;
#else
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = stack;
  fiber.context.uc_stack.ss_size = STACK_BYTES;
  makecontext(&fiber.context, hars_host_fiber_main, 0);
#endif
}

void wait_at(Gate &gate) {
  machine.current->waits_for = &gate;
  machine.current->seen = gate.generation;
  yield_to_scheduler();
  machine.current->waits_for = nullptr;
}

// Returns true for the last of `total`, who opens the gate.
bool arrive(Gate &gate, int kind, int total) {
  if (gate.arrived == 0) gate.kind = kind;
  if (gate.kind != kind) hars_host::fail("threads wait at different barriers");
  if (++gate.arrived < total) return false;
  gate.arrived = 0;
  return true;
}

Block &own_block() { return machine.blocks[machine.current->rank]; }

void begin_cluster(int64_t first_block) {
  machine.first_block = first_block;
  machine.cluster_gate = Gate();
  machine.blocks.assign(machine.shape.cluster, Block());
  for (Block &block : machine.blocks) {
    block.shared.resize(machine.shape.shared_bytes + 16);
    block.warps.assign(machine.shape.threads / 32, Warp());
  }
  for (size_t i = 0; i < machine.fibers.size(); ++i) {
    machine.fibers[i] = Fiber();
    machine.fibers[i].thread = static_cast<int>(i % machine.shape.threads);
    machine.fibers[i].rank = static_cast<int>(i / machine.shape.threads);
    prepare(machine.fibers[i], stacks[i]);
  }
}

void run_cluster(std::mt19937 &random) {
  std::vector<int> turns(machine.fibers.size());
  std::iota(turns.begin(), turns.end(), 0);
  for (size_t done = 0; done < machine.fibers.size();) {
    if (seed != 0) std::shuffle(turns.begin(), turns.end(), random);
    bool progress = false;
    done = 0;
    for (const int turn : turns) {
      Fiber &fiber = machine.fibers[turn];
      const bool ready = !fiber.done && (fiber.waits_for == nullptr || fiber.waits_for->generation != fiber.seen);
      if (ready) {
        resume(fiber);
        progress = true;
        if (!machine.error.empty()) return;
      }
      done += fiber.done;
    }
    if (!progress && done < machine.fibers.size()) {
      machine.error = "no thread can go on: some wait at a barrier that the others never reach";
      return;
    }
  }
}

}  // namespace

namespace hars_host {

int launch(const Shape &shape, const std::function<void()> &body) {
  if (shape.threads % 32 != 0 || shape.threads > 1024 || shape.blocks % shape.cluster != 0 || shape.blocks < 1) {
    message = "a launch of an impossible shape";
    return 1;
  }
  if (shape.shared_bytes > 48 * 1024) {
    message = "more shared memory than a block gets without asking";
    return 1;
  }
  machine.shape = shape;
  machine.body = &body;
  machine.error.clear();
  machine.fibers.resize(static_cast<size_t>(shape.threads) * shape.cluster);
  while (stacks.size() < machine.fibers.size()) {
    constexpr int FLAGS = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
    void *stack = mmap(nullptr, STACK_BYTES, PROT_READ | PROT_WRITE, FLAGS, -1, 0);
    stacks.push_back(static_cast<char *>(stack));
  }
  std::mt19937 random(seed);
  for (int64_t first = 0; first < shape.blocks && machine.error.empty(); first += shape.cluster) {
    begin_cluster(first);
    run_cluster(random);
  }
  message = machine.error;
  return message.empty() ? 0 : 1;
}

const char *last_error() { return message.c_str(); }

void fail(const char *what) {
  machine.error = what;
  yield_to_scheduler();  // never to come back: the launch ends
}

void set_seed(uint32_t value) { seed = value; }
void set_clusters(bool available) { clusters_available = available; }
bool has_clusters() { return clusters_available; }
void set_multiprocessors(int count) { multiprocessor_total = count; }
int multiprocessors() { return multiprocessor_total; }

void permit_reads(const void *begin, size_t bytes) { readable.emplace_back(static_cast<const char *>(begin), bytes); }
void permit_all_reads() { readable.clear(); }
void check_read(const void *address, size_t bytes) {
  const auto *first = static_cast<const char *>(address);
  const auto holds = [&](const auto &range) {
    return first >= range.first && first + bytes <= range.first + range.second;
  };
  if (!readable.empty() && std::none_of(readable.begin(), readable.end(), holds)) fail("a read outside the inputs");
}

int thread_index() { return machine.current->thread; }
int64_t block_index() { return machine.first_block + machine.current->rank; }
int64_t block_total() { return machine.shape.blocks; }
int cluster_rank() { return machine.current->rank; }
unsigned char *shared_memory(int rank) {
  auto address = reinterpret_cast<uintptr_t>(machine.blocks[rank].shared.data());
  return reinterpret_cast<unsigned char *>((address + 15) & ~uintptr_t{15});
}

int block_barrier(int kind, bool yes) {
  Block &block = own_block();
  const int turn = static_cast<int>(block.gate.generation & 1);
  block.yes[turn] += yes;
  if (arrive(block.gate, kind, machine.shape.threads)) {
    block.yes[turn ^ 1] = 0;  // read by all before they came here
    ++block.gate.generation;
  } else {
    wait_at(block.gate);
  }
  return block.yes[turn];
}

const uint64_t *warp_gather(int kind, uint64_t value) {
  Warp &warp = own_block().warps[machine.current->thread / 32];
  uint64_t *values = warp.values[warp.gate.generation & 1];
  values[machine.current->thread % 32] = value;
  if (arrive(warp.gate, kind, 32)) {
    ++warp.gate.generation;
  } else {
    wait_at(warp.gate);
  }
  return values;
}

namespace {
// How far each fiber has come, for the wait that may follow much later.
std::vector<uint64_t> arrived_at;
}  // namespace

void cluster_arrive() {
  arrived_at.resize(machine.fibers.size());
  Gate &gate = machine.cluster_gate;
  arrived_at[machine.current - machine.fibers.data()] = gate.generation;
  if (arrive(gate, 1, static_cast<int>(machine.fibers.size()))) ++gate.generation;
}

void cluster_wait() {
  Gate &gate = machine.cluster_gate;
  if (gate.generation == arrived_at[machine.current - machine.fibers.data()]) wait_at(gate);
}

}  // namespace hars_host
