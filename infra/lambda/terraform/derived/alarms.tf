locals {
  metrics = {
    errors      = { namespace = "AWS/Lambda", name = "Errors", stat = "Sum" }
    invocations = { namespace = "AWS/Lambda", name = "Invocations", stat = "Sum" }
    throttles   = { namespace = "AWS/Lambda", name = "Throttles", stat = "Sum" }
    duration    = { namespace = "AWS/Lambda", name = "Duration", stat = "p99" }
    instances   = { namespace = "AWS/Lambda", name = "ConcurrentExecutions", stat = "Maximum" }
    spilled     = { namespace = "AWS/Lambda", name = "ProvisionedConcurrencySpilloverInvocations", stat = "Sum" }
    answers     = { namespace = "Decant", name = "ServerErrors", stat = "Sum" }
    failures    = { namespace = "Decant", name = "ModelLoadFailures", stat = "Sum" }
  }

  alarms = {
    errors = {
      description = "More than 1 % of invocations have failed; what they were told is in the log"
      label       = "failed invocations, %"
      expression  = "IF(invocations > 0, 100 * errors / invocations, 0)"
      uses        = ["errors", "invocations"]
      threshold   = 1
    }
    server-errors = {
      description = "Answers of 5xx are more than 1 % of invocations; Lambda does not count them as errors"
      label       = "answers of 5xx, %"
      expression  = "IF(invocations > 0, 100 * answers / invocations, 0)"
      uses        = ["answers", "invocations"]
      threshold   = 1
    }
    load-failures = {
      description = "A model could not be loaded; the log says which and why"
      label       = "failed loads"
      expression  = "failures"
      uses        = ["failures"]
      threshold   = 0
    }
    throttles = {
      description = "Requests were turned away, as there were as many instances as there may be"
      label       = "refused requests"
      expression  = "throttles"
      uses        = ["throttles"]
      threshold   = 0
    }
    duration = {
      description = "One request in a hundred takes more than 80 % of the timeout"
      label       = "p99 of the timeout, %"
      expression  = "100 * duration / (1000 * ${var.timeout})"
      uses        = ["duration"]
      threshold   = 80
      periods     = 3
      datapoints  = 2
    }
    concurrency = {
      description = "More than 80 % of the reserved instances are in use"
      label       = "of the reserved instances, %"
      expression  = "100 * instances / ${var.reserved_concurrent_executions}"
      uses        = ["instances"]
      threshold   = 80
      wanted      = var.reserved_concurrent_executions > 0
    }
    spillover = {
      description = "Requests have met instances beyond the provisioned ones, which start cold"
      label       = "requests beyond"
      expression  = "spilled"
      uses        = ["spilled"]
      threshold   = 0
      wanted      = var.provisioned_concurrent_executions > 0
    }
  }
}
