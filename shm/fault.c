/* Per-thread error text: see fault.h. */
#include "shm/fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static __thread char text[512];

int fault(int error, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (used >= 0 && (size_t)used < sizeof text && error != 0) {
        char reason[128];
        snprintf(text + used, sizeof text - (size_t)used, ": %s", strerror_r(error, reason, sizeof reason));
    }
    return -error;
}

int fault_in(int code, const char *format, ...)
{
    char inner[sizeof text];
    memcpy(inner, text, sizeof inner);
    va_list arguments;
    va_start(arguments, format);
    int used = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (used >= 0 && (size_t)used < sizeof text)
        snprintf(text + used, sizeof text - (size_t)used, ": %s", inner);
    return code;
}

const char *fault_text(void)
{
    return text;
}
