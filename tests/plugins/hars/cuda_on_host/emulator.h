// A GPU for tests, on the CPU: each CUDA thread is a fiber of one host thread, and a fiber runs until it has to wait
// for others. Blocks of a cluster run together; clusters run one after the other. The order in which fibers get their
// turn changes with a seed, so that a missing barrier shows. A launch in which nobody can go on ends with an error.
#ifndef HARS_CUDA_ON_HOST_EMULATOR_H
#define HARS_CUDA_ON_HOST_EMULATOR_H

#include <stddef.h>
#include <stdint.h>

#include <functional>

namespace hars_host {

struct Shape {
  int64_t blocks;
  int threads;  // of a block; a multiple of 32
  int cluster;  // blocks of a cluster; divides `blocks`
  size_t shared_bytes;
};

// Runs body() once per CUDA thread. Not 0: the message is in last_error().
int launch(const Shape &shape, const std::function<void()> &body);
const char *last_error();
void fail(const char *message);  // ends the launch

void set_seed(uint32_t seed);      // of the order of turns; 0: by number
void set_clusters(bool available);  // what the launcher is told about the device
bool has_clusters();
void set_multiprocessors(int count);
int multiprocessors();

// Reads of global memory outside the permitted ranges end the launch; with no range permitted, all are allowed.
void permit_reads(const void *begin, size_t bytes);
void permit_all_reads();
void check_read(const void *address, size_t bytes);

// Of the fiber that runs now.
int thread_index();
int64_t block_index();
int64_t block_total();
int cluster_rank();
unsigned char *shared_memory(int rank);  // of a block of this cluster

int block_barrier(int kind, bool yes);  // how many threads said yes; every thread must give the same kind
// The values that the 32 lanes of this warp gave; valid until the lane's next call.
const uint64_t *warp_gather(int kind, uint64_t value);
void cluster_arrive();
void cluster_wait();

}  // namespace hars_host

#endif
