resource "aws_cloudwatch_metric_alarm" "this" {
  for_each = module.derived.alarms

  alarm_name          = "${var.function_name}-${each.key}"
  alarm_description   = each.value.description
  alarm_actions       = var.alarm_actions
  ok_actions          = var.alarm_actions
  comparison_operator = "GreaterThanThreshold"
  threshold           = each.value.threshold
  evaluation_periods  = each.value.periods
  datapoints_to_alarm = each.value.datapoints
  treat_missing_data  = "notBreaching"
  tags                = var.tags

  metric_query {
    id          = "share"
    label       = each.value.label
    expression  = each.value.expression
    return_data = true
  }

  dynamic "metric_query" {
    for_each = each.value.metrics

    content {
      id          = metric_query.key
      return_data = false

      metric {
        namespace   = metric_query.value.namespace
        metric_name = metric_query.value.name
        dimensions  = { FunctionName = aws_lambda_function.this.function_name }
        period      = 300
        stat        = metric_query.value.stat
      }
    }
  }
}
