/* Figures that are made of what workers say become whole numbers: those may say anything. */
#ifndef AGGREGATOR_ENCODE_WHOLE_H
#define AGGREGATOR_ENCODE_WHOLE_H

#include <stdint.h>

/** The nearest whole number that a json_int_t holds; 0 for what is negative or no number. */
static inline int64_t whole_of(double figure)
{
    if (!(figure >= 0.5))
        return 0;
    return figure < 9e18 ? (int64_t)(figure + 0.5) : INT64_MAX;
}

#endif
