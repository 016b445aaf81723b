/* Holding claims against the kernel's figures: see claims.h. */
#include "aggregator/claims.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "aggregator/log.h"

#define LEAST_NS UINT64_C(1000000)  /* claimed at once: less does no harm */
#define SLACK_NS UINT64_C(20000000) /* a claim may be told late */

struct claim claims_take(struct worker *worker)
{
    const struct taken_page *page = &worker->taken.page;
    struct claim claim = {page->sampler_cpu_ns - worker->claimed.sampler_ns,
                          page->hook_cpu_ns - worker->claimed.hook_ns};
    worker->claimed.sampler_ns = page->sampler_cpu_ns;
    worker->claimed.hook_ns = page->hook_cpu_ns;
    return claim;
}

bool claims_stand_out(const struct worker *worker, const struct claim *claim, uint64_t all_ns)
{
    if (worker->foreign || worker->dead || worker->closed || worker->sampler_tid == 0)
        return false;
    return worker->disbelieved || claim->hook_ns > LEAST_NS ||
           (claim->sampler_ns > LEAST_NS && claim->sampler_ns > all_ns / 2);
}

/* CPU of its sampler thread in all; 0 if that cannot be had. */
static uint64_t thread_cpu(struct worker *worker)
{
    char path[64], text[64];
    snprintf(path, sizeof path, "/proc/%d/task/%u/schedstat", worker->header.pid, worker->sampler_tid);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0 || !worker_alive(worker))
        return 0;
    text[n] = '\0';
    return strtoull(text, NULL, 10);
}

struct claim claims_excess(struct worker *worker, const struct claim *claim, uint64_t used_ns)
{
    struct claim excess = {0, 0};
    bool asked = worker->disbelieved || claim->sampler_ns > LEAST_NS;
    uint64_t kernel_ns = asked ? thread_cpu(worker) : 0, before_ns = worker->kernel_sampler_ns;
    if (kernel_ns != 0 && !worker->disbelieved &&
        worker->claimed.sampler_ns > kernel_ns + kernel_ns / 8 + SLACK_NS) {
        worker->disbelieved = true;
        log_line("process %d claims %.3f s of CPU for its sampler, which used %.3f s: its claims are checked "
                 "from now "
                 "on",
                 worker->header.pid, (double)worker->claimed.sampler_ns / 1e9, (double)kernel_ns / 1e9);
    }
    if (kernel_ns != 0)
        worker->kernel_sampler_ns = kernel_ns;
    if (worker->disbelieved && kernel_ns != 0) {
        uint64_t true_ns = before_ns != 0 && kernel_ns > before_ns ? kernel_ns - before_ns : 0;
        excess.sampler_ns = claim->sampler_ns > true_ns ? claim->sampler_ns - true_ns : 0;
    }
    uint64_t most_ns = used_ns + SLACK_NS;
    if (claim->hook_ns > most_ns)
        excess.hook_ns = claim->hook_ns - most_ns;
    return excess;
}
