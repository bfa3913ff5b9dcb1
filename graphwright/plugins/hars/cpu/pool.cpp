#include "pool.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>

namespace hars {
namespace {

constexpr int32_t kMostThreads = 256;
// A thread looks so long for what it waits for before it sleeps. To be woken takes as long; many calls take little more.
constexpr auto kAwake = std::chrono::microseconds(50);

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Returns as soon as `came` is true, or after kAwake.
template <class Came>
void look_out(const Came &came) {
  const auto until = std::chrono::steady_clock::now() + kAwake;
  do {
    for (int i = 0; i < 16; ++i) {
      if (came()) return;
      relax();
    }
  } while (std::chrono::steady_clock::now() < until);
}

// Some schedulers wake a helper on the processor of the one that called it, where it would wait for the caller to end. It
// goes to another one then, and may be moved back at any time.
void leave_processor(int taken) {
#ifdef __linux__
  cpu_set_t allowed;
  if (sched_getcpu() != taken || pthread_getaffinity_np(pthread_self(), sizeof allowed, &allowed)) return;
  cpu_set_t others = allowed;
  CPU_CLR(taken, &others);
  if (CPU_COUNT(&others) == 0 || pthread_setaffinity_np(pthread_self(), sizeof others, &others)) return;
  pthread_setaffinity_np(pthread_self(), sizeof allowed, &allowed);
#else
  (void)taken;
#endif
}

int this_processor() {
#ifdef __linux__
  return sched_getcpu();
#else
  return -1;
#endif
}

// One call of run_on_pool; lives on its caller's stack, so the caller waits until no helper holds it.
struct Job {
  Job(hars_task task_, void *data_, int64_t count_, int32_t wanted_)
      : task(task_), data(data_), count(count_), wanted(wanted_) {}

  hars_task task;
  void *data;
  int64_t count;
  int32_t wanted;  // helpers
  int processor = this_processor();
  std::atomic<int32_t> helpers{0};  // written under the pool's mutex
  std::atomic<int64_t> next{0};
  std::condition_variable left;
  Job *following = nullptr;

  void work() {
    for (int64_t i; (i = next.fetch_add(1, std::memory_order_relaxed)) < count;) task(data, i);
  }
  bool needs_help() const { return helpers < wanted && next.load(std::memory_order_relaxed) < count; }
};

class Pool {
 public:
  explicit Pool(pid_t process) : process_(process) {}

  pid_t process() const { return process_; }

  void run(Job &job) {
    int32_t sleeping;
    {
      std::lock_guard<std::mutex> hold(mutex_);
      job.following = jobs_;
      jobs_ = &job;
      start_threads(job.wanted);
      calls_.fetch_add(1, std::memory_order_release);
      sleeping = sleeping_;
    }
    for (int32_t i = 0; i < job.wanted && i < sleeping; ++i) work_came_.notify_one();
    job.work();
    look_out([&] { return job.helpers.load(std::memory_order_acquire) == 0; });
    std::unique_lock<std::mutex> hold(mutex_);
    remove(job);
    job.left.wait(hold, [&] { return job.helpers == 0; });
  }

 private:
  void start_threads(int32_t wanted) {
    // Signals are for the program's own threads.
    sigset_t all, before;
    sigfillset(&all);
    if (threads_ < wanted) pthread_sigmask(SIG_SETMASK, &all, &before);
    else return;
    try {
      for (; threads_ < wanted; ++threads_) std::thread([this] { serve(); }).detach();
    } catch (const std::system_error &) {
      // No more threads to be had: those there are, and the caller, do the work.
    }
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }

  void serve() {
    std::unique_lock<std::mutex> hold(mutex_);
    for (;;) {
      Job *job = find_job();
      if (!job) {
        const uint64_t seen = calls_.load(std::memory_order_relaxed);
        hold.unlock();
        look_out([&] { return calls_.load(std::memory_order_acquire) != seen; });
        hold.lock();
        if (calls_.load(std::memory_order_relaxed) != seen) continue;
        ++sleeping_;
        work_came_.wait(hold);
        --sleeping_;
        continue;
      }
      ++job->helpers;
      hold.unlock();
      leave_processor(job->processor);
      job->work();
      hold.lock();
      if (--job->helpers == 0) job->left.notify_one();
    }
  }

  Job *find_job() const {
    Job *job = jobs_;
    while (job && !job->needs_help()) job = job->following;
    return job;
  }

  void remove(Job &job) {
    Job **link = &jobs_;
    while (*link != &job) link = &(*link)->following;
    *link = job.following;
  }

  const pid_t process_;
  std::mutex mutex_;
  std::condition_variable work_came_;
  Job *jobs_ = nullptr;
  std::atomic<uint64_t> calls_{0};  // written under the mutex
  int32_t threads_ = 0, sleeping_ = 0;
};

std::atomic<Pool *> current{nullptr};

// A pool is never destroyed: its threads wait in it until the process ends, and need no farewell. After a fork() the
// child has neither the threads nor a mutex to be trusted, so it starts with a new one.
Pool *pool_of_this_process() {
  Pool *pool = current.load(std::memory_order_acquire);
  const pid_t process = getpid();
  while (!pool || pool->process() != process) {
    Pool *fresh = new (std::nothrow) Pool(process);
    if (!fresh) return nullptr;
    if (current.compare_exchange_strong(pool, fresh, std::memory_order_acq_rel)) return fresh;
    delete fresh;
  }
  return pool;
}

}  // namespace

void run_on_pool(int32_t threads, hars_task task, void *data, int64_t count) {
  threads = threads < kMostThreads ? threads : kMostThreads;
  const int64_t helpers = (count < threads ? count : threads) - 1;
  Pool *pool = helpers > 0 ? pool_of_this_process() : nullptr;
  if (!pool) {
    for (int64_t i = 0; i < count; ++i) task(data, i);
    return;
  }
  Job job(task, data, count, int32_t(helpers));
  pool->run(job);
}

}  // namespace hars
